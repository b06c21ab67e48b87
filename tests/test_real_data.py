"""On the real volumes, where KDCORE_DATA says they are."""

import os
import re
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest

import kdcore
from kdcore.data import lgg_site
from kdcore.data.splits import PARTS


@pytest.fixture(scope="module")
def real(real_folder):
    return kdcore.read_msd(real_folder)


def test_the_volumes_are_as_documented(real):
    assert len(real) >= 200
    for case in real:
        assert case.spacing_mm == (1.0, 1.0, 1.0) and case.sequences == ("MRI",)
        assert set(np.unique(case.mask)) == {0, 1, 2}
    shapes = np.array([case.mask.shape for case in real])
    assert (shapes.min(axis=0) >= (31, 40, 26)).all() and (shapes.max(axis=0) <= (43, 59, 47)).all()
    share = np.mean([(case.mask > 0).mean() for case in real])
    assert share == pytest.approx(0.053, abs=0.005)


def test_maxima_run_over_four_orders_of_magnitude(real):
    maxima = [case.image.max() for case in real]
    assert min(maxima) < 200 and max(maxima) > 1e6


@pytest.mark.parametrize("method", ["minmax", "zscore", "percentile"])
def test_every_volume_is_normalized(real, method):
    for case in real:
        out = kdcore.normalize(case.image, method)
        assert np.isfinite(out).all() and out.std() > 0.05


def test_the_fitted_minmax_leaves_most_volumes_black(real):
    split = kdcore.split_cases(real, 8, 20, 60)
    training = split.take(real, "labelled") + split.take(real, "unlabelled")
    fitted = kdcore.fit_minmax(training, split)
    spread = [np.percentile(fitted(case.image), 99) for case in training]
    assert np.median(spread) < 0.01


def test_slices_of_the_main_job_hold_whole_volumes(real):
    batches = kdcore.Batches(real[:4], (64, 48), 16, shuffle=False)
    total = sum(int((batches[i][1] > 0).sum()) for i in range(len(batches)))
    inside = sum(int((case.mask > 0).sum()) for case in real[:4])
    assert total >= inside  # padding repeats the border, and cuts nothing


def test_evaluate_a_perfect_answer(real):
    case = real[0]
    one_hot = np.eye(3, dtype=np.float32)[case.mask]
    from kdcore.evaluation.metrics import evaluate_case

    entry = evaluate_case(case, one_hot)
    for label in ("1", "2"):
        assert entry[label]["dice"] == 1.0
        assert entry[label]["surface_dice_1mm"] == pytest.approx(1)
        assert entry[label]["hd95_mm"] == pytest.approx(0, abs=1e-6)


@pytest.mark.job
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exported from TensorFlow")
@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_exported_networks_say_the_same_of_real_slices(real, tmp_path, ending):
    pytest.importorskip({"onnx": "onnxruntime", "tflite": "ai_edge_litert"}[ending])
    keras.utils.set_random_seed(0)
    student = kdcore.unet((64, 48, 1), 3, filters=4)
    student.compile(keras.optimizers.Adam(1e-2), kdcore.DiceCrossEntropy(), jit_compile=False)
    student.fit(kdcore.Batches(real[:4], (64, 48), num_batches=20), verbose=0)
    exported = kdcore.load_exported(kdcore.export(student, tmp_path / f"student.{ending}"))
    x, _ = kdcore.Batches(real[4:8], (64, 48), 128, shuffle=False)[0]
    expected = student.predict_on_batch(x)
    assert expected.std() > 0.1
    np.testing.assert_allclose(exported.predict_on_batch(x), expected, atol=1e-4)


# --- ACDC and LGG ----------------------------------------------------------------------------


def folder_with(name):
    """A folder of KDCORE_DATA, or the test is skipped and says why."""
    place = os.environ.get("KDCORE_DATA")
    if not place or not (Path(place) / name).is_dir():
        pytest.skip(f"KDCORE_DATA names no folder with {name}: the tests on it were skipped")
    return Path(place)


@pytest.fixture(scope="module")
def acdc():
    return kdcore.data.read_acdc(kdcore.data.acdc_folder(folder_with("ACDC")))


@pytest.mark.job
def test_acdc_is_as_documented(acdc):
    assert len(acdc) == 200
    assert set(Counter(kdcore.data.acdc_patient(case) for case in acdc).values()) == {2}
    shapes = np.array([case.mask.shape for case in acdc])
    assert shapes[:, 0].sum() == 1902 and shapes[:, 0].min() == 6 and shapes[:, 0].max() == 18
    assert np.median(shapes[:, 1]) == 256 and np.median(shapes[:, 2]) == 216
    for case in acdc:
        assert set(np.unique(case.mask)) == {0, 1, 2, 3} and not case.has_spacing
        assert case.image.min() >= 0 and case.sequences == ("cine",)


@pytest.mark.job
def test_the_earlier_frame_shows_the_larger_ventricle(acdc):
    """So in all 100 patients it is end-diastole, although the HDF5 volumes do not say so."""
    volumes = {case.case_id: int((case.mask == 3).sum()) for case in acdc}
    ids = sorted(volumes)
    assert all(volumes[a] > volumes[b] for a, b in zip(ids[::2], ids[1::2], strict=True))


@pytest.mark.job
def test_acdcs_standard_split(acdc):
    split = kdcore.data.acdc_split(acdc, 7)
    parts = [split.take(acdc, part) for part in PARTS]
    assert list(map(len, parts)) == [14, 126, 20, 40]
    assert all(case.mask is None for case in parts[1])


@pytest.fixture(scope="module")
def lgg():
    """Cases, and what was said while they were read."""
    with pytest.warns(UserWarning) as caught:
        cases = kdcore.data.read_lgg(folder_with("LGG"))
    return cases, [str(warning.message) for warning in caught]


@pytest.mark.job
def test_lgg_without_the_copies_of_flair(lgg):
    cases, (message,) = lgg
    assert message.startswith("2 of 77 patients are left out")
    named = re.findall(r"(TCGA_\w+_\d{4})_\d{8} \(([^)]*)\)", message)
    assert named == [("TCGA_DU_7013", "T1, T1c"), ("TCGA_FG_7634", "T1c")]
    assert len(cases) == 75
    assert sum(len(case.mask) for case in cases) == 2607
    assert sum(int(case.mask.any(axis=(1, 2)).sum()) for case in cases) == 936
    assert all(set(np.unique(case.mask)) == {0, 1} for case in cases)
    assert Counter(map(lgg_site, cases)) == {
        "DU": 30,
        "HT": 24,
        "CS": 12,
        "FG": 8,
        "EZ": 1,
    }
    split = kdcore.split_cases(cases, 10, 10, 20, stratify=lgg_site)
    sites = Counter(map(lgg_site, split.take(cases, "test")))
    for site, exact in {"DU": 8, "HT": 6.4, "CS": 3.2, "FG": 2.1}.items():
        assert abs(sites[site] - exact) <= 1


@pytest.mark.job
def test_a_share_of_foreground_on_lgg(lgg):
    shares = []
    for share in (None, 0.5):
        batches = kdcore.Batches(lgg[0][:12], (128, 128), 16, foreground_share=share, seed=1)
        holds = [(batches[i][1] > 0).any(axis=(1, 2)).mean() for i in range(len(batches))]
        shares.append(np.mean(holds))
    assert shares[0] < 0.45 and shares[1] > shares[0] + 0.2
