"""The simulated scans: physics by hand, realism, and the same bytes twice."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import kdcore
from kdcore.data.simulation import anatomy, mri
from kdcore.data.simulation import brain as simulate
from kdcore.data.simulation.brain import Simulation, simulate_case, simulate_cases

COARSE = Simulation(spacing_mm=4.0)
TISSUES = list(mri.TISSUES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("simulated")


@pytest.fixture(scope="module")
def cases(folder):
    return simulate_cases(12, 0, simulation=COARSE, folder=folder)


@pytest.fixture
def mean_tissue():
    t1, t2, density = np.array([[mean for mean, _ in t] for t in mri.TISSUES.values()]).T
    t1_contrast = t1.copy()
    t1_contrast[TISSUES.index("core")] -= mri.CONTRAST_SHORTENS_T1[0]
    return mri.Relaxation(t1, t1_contrast, t2, density)


def by_tissue(sequence, relaxation):
    return dict(zip(TISSUES, mri.signals(sequence, relaxation), strict=True))


def test_signals_by_hand(mean_tissue):
    white = TISSUES.index("white")
    t2 = 0.69 * (1 - np.exp(-5000 / 1084)) * np.exp(-100 / 69)
    assert mri.signals("T2", mean_tissue)[white] == pytest.approx(t2)
    e1 = np.exp(-20 / 1084)
    ernst = np.sin(np.pi * 25 / 180) * (1 - e1) / (1 - np.cos(np.pi * 25 / 180) * e1)
    expected = 0.69 * ernst * np.exp(-4 / 69)
    assert mri.signals("T1", mean_tissue)[white] == pytest.approx(expected)


def test_contrasts_are_a_radiologists(mean_tissue):
    t1, t1c, t2, flair = (by_tissue(name, mean_tissue) for name in mri.SEQUENCES)
    assert t1["white"] > t1["grey"] > t1["fluid"]
    assert t2["fluid"] > t2["grey"] > t2["white"]
    assert flair["fluid"] < 0.05 * flair["white"]
    assert flair["oedema"] > 1.3 * flair["grey"] and t2["oedema"] > 1.2 * t2["grey"]
    assert abs(t1["oedema"] - t1["grey"]) < abs(t1["oedema"] - t1["white"])
    assert t1c["core"] > max(t1["core"], t1c["white"], t1c["grey"])
    assert {k: v for k, v in t1c.items() if k != "core"} == {
        k: v for k, v in t1.items() if k != "core"
    }


def test_drawn_tissues_stay_near_the_literature():
    for seed in range(50):
        drawn = mri.draw_relaxation(np.random.default_rng(seed))
        for i, (t1, t2, density) in enumerate(mri.TISSUES.values()):
            for value, (mean, sd) in ((drawn.t1, t1), (drawn.t2, t2), (drawn.density, density)):
                assert abs(value[i] - mean) <= 2 * sd + 1e-9
        assert by_tissue("T1c", drawn)["core"] > by_tissue("T1", drawn)["core"]


def test_noise_in_air_is_rayleigh_and_rician_elsewhere(rng):
    air = mri.magnitude(np.zeros(200_000), 2.0, rng)
    assert air.mean() == pytest.approx(2 * np.sqrt(np.pi / 2), rel=0.01)
    assert air.std() == pytest.approx(2 * np.sqrt(2 - np.pi / 2), rel=0.01)
    bright = mri.magnitude(np.full(200_000, 50.0), 2.0, rng)
    assert bright.mean() == pytest.approx(50 + 2**2 / (2 * 50), abs=0.02)
    assert bright.std() == pytest.approx(2.0, rel=0.01)


def test_air_of_a_scan_has_the_stated_snr():
    calm = replace(COARSE, bias=(0.0, 0.0), snr=10.0)
    image, _ = simulate_case(calm, 0, 0)
    corner = image[:4, :4, :, 0]
    white = np.percentile(image[..., 0], 97)  # T1: white matter is the brightest
    assert corner.std() == pytest.approx(white / 10 * np.sqrt(2 - np.pi / 2), rel=0.15)


@pytest.mark.parametrize("strength", [0.0, 0.1, 0.2])
def test_bias_field_has_the_stated_range_and_is_smooth(strength, rng):
    field = mri.bias_field((40, 48, 40), strength, rng)
    assert field.min() == pytest.approx(1 - strength)
    assert field.max() == pytest.approx(1 + strength)
    assert np.abs(np.diff(field, axis=1)).max() <= 0.05


def test_no_brain_is_cut_off_the_template():
    """The maps are those of nilearn's loaders, and 0 outside of the box."""
    from nilearn import datasets

    white, grey, brain = anatomy.template(1.0)[0]
    for load, cut in (
        (datasets.load_mni152_wm_template, white),
        (datasets.load_mni152_gm_template, grey),
        (datasets.load_mni152_brain_mask, np.where(brain == 1, brain, 0)),
    ):
        whole = np.asarray(load(resolution=1).dataobj).T[:, ::-1]
        np.testing.assert_array_equal(whole[anatomy._BRAIN_BOX], cut)
        assert np.count_nonzero(whole) == np.count_nonzero(cut)
    assert not any(tissue[..., -5:].any() for tissue in (white, grey, brain))


@pytest.mark.job
def test_no_anatomy_folds():
    folds, moved = [], []
    for index in range(40):
        rng = np.random.default_rng(index)
        positions, _, _ = simulate.draw_anatomy(Simulation(), rng)
        fine = anatomy.upsample(positions, Simulation(spacing_mm=3.0).shape)
        folds.append(anatomy.jacobian(fine, 3.0).min())
        moved.append(np.sqrt(np.mean(np.sum((positions - anatomy.nodes()) ** 2, axis=0))))
    assert min(folds) > 0
    assert 2 < np.mean(moved) < 15  # mm: the heads differ, and are still heads


def test_the_exponential_is_inverted_by_the_opposite_velocity():
    velocity = 3 * anatomy.smooth_noise(np.random.default_rng(0), 15, 3)
    forward, back = anatomy.exponential(velocity), anatomy.exponential(-velocity)
    x = anatomy.nodes()
    there = x + forward
    residual = there + anatomy.sample_nodes(back, there) - x
    inside = (slice(None), *[slice(3, -3)] * 3)
    assert np.abs(residual[inside]).max() < 0.6 < np.abs(forward).max()


def test_a_push_moves_tissue_outwards_and_refuses_to_fold():
    center = np.zeros(3)
    on_axis = np.array([[0.0, 10.0, 20.0, 200.0], [0] * 4, [0] * 4])
    before = anatomy.push(on_axis, center, radius=10.0, distance=3.0)[0]
    assert before == pytest.approx([0, 10 - 3, 20 - 6 * np.exp(-1.5), 200])
    with pytest.raises(ValueError, match="folds the tissue"):
        anatomy.push(on_axis, center, radius=10.0, distance=6.0)


def test_lesions_have_the_drawn_volumes_and_places(cases):
    with_lesion = [case for case in cases if case.mask.any()]
    assert len(with_lesion) < len(cases)  # some have none
    for case in with_lesion:
        core, oedema = ((case.mask == label).sum() * 0.064 for label in (2, 1))
        assert 8 - 0.1 <= core <= 60.1 and 15 - 0.1 <= oedema <= 110.1
        t2, flair = case.image[..., 2], case.image[..., 3]
        assert np.median(t2[case.mask == 1]) > np.median(t2[case.mask == 0])
        brain = flair[(case.mask == 0) & (flair > flair.mean())]
        assert np.median(flair[case.mask == 1]) > 1.1 * np.median(brain)  # thin, large voxels


def test_the_anatomy_is_the_same_at_any_voxel_size():
    """The lesion has the same volume and centre with voxels of 3 and of 6 mm."""
    for index in (1, 2):
        found = []
        for spacing in (3.0, 6.0):
            _, mask = simulate_case(Simulation(spacing_mm=spacing), 0, index)
            center = (np.argwhere(mask > 0) + 0.5).mean(axis=0) * spacing
            found.append([*center, 1e-3 * spacing**3 * (mask > 0).sum()])
        np.testing.assert_allclose(found[0], found[1], atol=2.0)


def test_same_bytes_twice_and_for_any_n(cases, tmp_path):
    again = simulate_cases(3, 0, simulation=COARSE, folder=tmp_path)
    for case, other in zip(again, cases, strict=False):
        assert case.case_id == other.case_id
        assert case.image.tobytes() == other.image.tobytes()
        assert case.mask.tobytes() == other.mask.tobytes()
    other = simulate_cases(1, 1, simulation=COARSE, folder=tmp_path)[0]
    assert other.image.tobytes() != cases[0].image.tobytes()


def test_the_same_on_every_machine():
    """Values are whole numbers, so the last bits in which processors differ do not show."""
    image, mask = simulate_case(COARSE, 0, 2)
    assert np.array_equal(image, np.rint(image)) and image.max() < 2**16
    assert (int(image.sum(dtype=np.float64)), int(mask.sum())) == GOLDEN


GOLDEN = (22343001, 1692)


def test_case_form(cases):
    case = cases[0]
    assert case.sequences == ("T1", "T1c", "T2", "FLAIR") and case.case_id == "sim0-00000"
    assert case.image.shape == (42, 48, 42, 4) and case.image.dtype == np.float32
    assert case.mask.shape == (42, 48, 42) and case.mask.dtype == np.uint8
    assert case.spacing_mm == (4.0, 4.0, 4.0)
    assert isinstance(case.image, np.memmap) and not case.image.flags.writeable
    middle = case.affine @ [20.5, 23.5, 20.5, 1]
    assert middle == pytest.approx([0, 0, 0, 1])
    assert (case.affine @ [21.5, 22.5, 21.5, 1])[:3] == pytest.approx([4, 4, 4])  # R, A, S


def test_some_sequences_only(cases, folder):
    chosen = simulate_cases(1, 0, ("FLAIR", "T1"), simulation=COARSE, folder=folder)[0]
    assert chosen.sequences == ("FLAIR", "T1")
    np.testing.assert_array_equal(chosen.image, cases[0].image[..., [3, 0]])
    with pytest.raises(ValueError, match="has the sequences .* Received: .*PET"):
        cases[0].select(["PET"])


def test_what_is_kept_is_checked_and_made_again(cases, tmp_path, monkeypatch):
    simulate_cases(2, 0, simulation=COARSE, folder=tmp_path)
    (image,) = tmp_path.glob("*/seed0/00001/image.npy")
    content = bytearray(image.read_bytes())
    content[-1] ^= 1
    image.write_bytes(content)
    made = []
    real = simulate.simulate_case
    monkeypatch.setattr(simulate, "simulate_case", lambda *a: made.append(a[2]) or real(*a))
    again = simulate_cases(2, 0, simulation=COARSE, folder=tmp_path)
    assert made == [1]
    assert again[1].image.tobytes() == cases[1].image.tobytes()
    (digests,) = tmp_path.glob("*/seed0/00000/digests.json")
    digests.write_text(json.dumps([]))
    simulate_cases(2, 0, simulation=COARSE, folder=tmp_path)
    assert made == [1, 0]


def test_other_parameters_have_another_folder(tmp_path):
    simulate_cases(1, 0, simulation=COARSE, folder=tmp_path)
    simulate_cases(1, 0, simulation=replace(COARSE, snr=5.0), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": -1}, "n and seed must be ≥ 0. Received: n=-1"),
        ({"n": 1, "seed": -1}, "n and seed must be ≥ 0"),
        ({"n": 1, "sequences": ("T1", "PD")}, "sequence must be one of .* Received: 'PD'"),
        ({"n": 1, "sequences": ()}, "sequences must be different names"),
        ({"n": 1, "sequences": ("T1", "T1")}, "sequences must be different names"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate_cases(**arguments)
    assert simulate_cases(0) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"spacing_mm": 0.5},
        {"snr": 0.0},
        {"healthy_share": 1.5},
        {"bias": (0.3, 0.2)},
        {"core_cm3": (8.0, 25.0, 2000.0)},
        {"core_cm3": (0.0, 25.0, 60.0)},
        {"oedema_cm3": (50.0, 45.0, 110.0)},
        {"mass_effect_mm": (1.0, 30.0)},
        {"displacement_mm": 50.0},
    ],
)
def test_impossible_parameters(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must .*Received"):
        Simulation(**wrong)


def test_it_is_public():
    assert kdcore.simulate_cases is simulate_cases and kdcore.Simulation is Simulation


@pytest.mark.job
def test_more_scans_than_the_usual_number_of_open_files(tmp_path):
    """In a process of its own, whose limit is made small."""
    pytest.importorskip("resource")
    np.save(tmp_path / "a.npy", np.zeros(3))
    code = (
        "import resource, sys; from kdcore._files import open_array;"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard));"
        "print(len([open_array(sys.argv[1]) for _ in range(300)]))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "300"


def test_another_subjects_files_are_not_taken_for_this_ones(tmp_path):
    first = simulate_cases(2, 0, simulation=COARSE, folder=tmp_path)
    one, two = sorted(path.parent for path in tmp_path.glob("*/seed0/*/digests.json"))
    shutil.rmtree(one)
    shutil.copytree(two, one)
    again = simulate_cases(2, 0, simulation=COARSE, folder=tmp_path)
    assert again[0].image.tobytes() == first[0].image.tobytes() != first[1].image.tobytes()
