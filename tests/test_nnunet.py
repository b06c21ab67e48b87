"""nnU-Net's raw data sets: a file a channel, regions, ignored voxels, both versions."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_nifti

import kdcore
from kdcore._provenance import case_digest, unseen
from kdcore.data import label_names, label_regions, read_nnunet

SHAPE = (4, 5, 6)
V2 = {
    "channel_names": {"0": "T1", "1": "FLAIR"},
    "labels": {"background": 0, "oedema": 1, "core": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def voxels(seed):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def labels(seed, high=3):
    return np.random.default_rng(seed).integers(0, high, SHAPE).astype(np.uint8)


def describe(folder, **changes):
    about = {key: value for key, value in {**V2, **changes}.items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(about))


def write_nnunet(folder):
    """One case, whose labels are told as regions."""
    regions = {"background": 0, "whole tumour": [1, 2], "tumour core": [2]}
    describe(folder, labels=regions, numTraining=1)
    for channel in range(2):
        write_nifti(folder / "imagesTr" / f"BRAIN_001_{channel:04d}.nii.gz", voxels(channel))
    write_nifti(folder / "labelsTr" / "BRAIN_001.nii.gz", labels(0))


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "Dataset007_Bräin"
    describe(folder)
    for index, name in enumerate(("BR_001", "BR_002")):
        for channel in range(2):
            path = folder / "imagesTr" / f"{name}_{channel:04d}.nii.gz"
            write_nifti(path, voxels(10 * index + channel))
        write_nifti(folder / "labelsTr" / f"{name}.nii.gz", labels(index))
    for channel in range(2):
        write_nifti(folder / "imagesTs" / f"BR_100_{channel:04d}.nii.gz", voxels(50 + channel))
    (folder / "imagesTr" / "._BR_001_0000.nii.gz").write_bytes(b"of a Mac")
    return folder


@pytest.mark.parametrize("read", [read_nnunet, kdcore.read_msd])
def test_channels_are_joined_and_cases_are_called_as_nnunet_does(raw, read):
    cases = read(raw)
    assert [case.case_id for case in cases] == ["BR_001", "BR_002", "BR_100"]
    for index, case in enumerate(cases[:2]):
        assert case.sequences == ("T1", "FLAIR")
        for channel in range(2):
            np.testing.assert_array_equal(case.image[..., channel], voxels(10 * index + channel))
        np.testing.assert_array_equal(case.mask, labels(index))
    assert cases[2].mask is None
    assert [case.case_id for case in read(raw, labelled_only=True)] == ["BR_001", "BR_002"]
    assert label_names(raw) == {"0": "background", "1": "oedema", "2": "core"}


def test_its_own_probabilities_are_found_by_name(raw, tmp_path):
    cases = read_nnunet(raw, labelled_only=True)
    maps = tmp_path / "maps"
    maps.mkdir()
    for case in cases:
        p = np.eye(3, dtype=np.float32)[case.mask] * 0.7 + 0.1  # (X, Y, Z, C)
        np.savez(maps / f"{case.case_id}.npz", probabilities=p.transpose(3, 2, 1, 0))
    teacher = kdcore.NNUNetProbabilities(maps)
    targets = kdcore.SoftTargets.write(teacher, cases, tmp_path / "soft")
    for case in cases:
        np.testing.assert_array_equal(np.argmax(targets[case.case_id], -1), case.mask)


def test_version_1_lists_names_that_are_not_the_files(raw):
    listed = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("BR_001", "BR_002")
    ]
    describe(raw, channel_names=None, modality=V2["channel_names"], training=listed,
             labels={"0": "background", "1": "oedema", "2": "core"})  # fmt: skip
    assert [case.case_id for case in read_nnunet(raw)] == ["BR_001", "BR_002", "BR_100"]


def test_a_decathlon_folder_whose_images_end_in_0000(tmp_path):
    write_nifti(tmp_path / "imagesTr/a_0000.nii.gz", voxels(0))
    write_nifti(tmp_path / "labelsTr/a.nii.gz", labels(0))
    entry = {"image": "imagesTr/a_0000.nii.gz", "label": "labelsTr/a.nii.gz"}
    describe(tmp_path, channel_names={"0": "T1"}, training=[entry])
    assert [case.case_id for case in kdcore.read_msd(tmp_path)] == ["a"]


def test_regions_are_scored_and_labels_trained(raw):
    describe(
        raw, labels={"background": 0, "whole": [1, 2], "core": [2]}, regions_class_order=[1, 2]
    )
    case = read_nnunet(raw)[0]
    np.testing.assert_array_equal(case.mask, labels(0))
    assert label_regions(raw) == {"whole": (1, 2), "core": (2,)}
    assert label_names(raw) == {"0": "background", "1": "whole", "2": "core"}


def test_ignored_voxels_are_minus_1(raw):
    describe(raw, labels={"background": 0, "oedema": 1, "ignore": 2})
    case = read_nnunet(raw)[0]
    np.testing.assert_array_equal(case.mask, np.where(labels(0) == 2, -1, labels(0).astype(int)))
    assert label_names(raw) == {"0": "background", "1": "oedema"}
    drawn = kdcore.Batches([case], SHAPE[1:], 4, shuffle=False)[0][1]
    assert set(np.unique(drawn)) == {-1, 0, 1}


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("imagesTr/BR_001_0001.nii.gz", "BR_001_0001.nii.gz does not exist, .*names 2 channels"),
        ("imagesTr/BR_001_0000.nii.gz", "BR_001.nii.gz has no image: .*BR_001_0000.nii.gz"),
    ],
)
def test_files_that_are_missing(raw, lost, told):
    (raw / lost).unlink()
    with pytest.raises(FileNotFoundError, match=told):
        read_nnunet(raw)


def test_a_scan_does_not_lose_its_mask_in_silence(raw):
    (raw / "labelsTr/BR_002.nii.gz").unlink()
    with pytest.warns(UserWarning, match="1 scans .* no mask in labelsTr .* BR_002"):
        assert [case.mask is None for case in read_nnunet(raw)] == [False, True, True]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"channel_names": {"0": "T1"}}, "BR_001_0001.nii.gz is there, but dataset.json names 1"),
        ({"file_ending": ".mha"}, "files end in '.mha'; .nii and .nii.gz can be read"),
        ({"file_ending": ".nii"}, "has no cases. Expected images imagesTr/<case>_0000.nii"),
        ({"labels": {"background": 0, "oedema": 1}}, r"holds the labels \[2\]"),
    ],
)
def test_descriptions_that_do_not_fit(raw, changes, told):
    describe(raw, **changes)
    with pytest.raises(ValueError, match=told):
        read_nnunet(raw)


def test_one_file_a_sequence(tmp_path):
    paths = [write_nifti(tmp_path / f"{name}.nii.gz", voxels(i)) for i, name in enumerate("ab")]
    mask = write_nifti(tmp_path / "patient.nii.gz", labels(0))
    case = kdcore.read_case(paths, mask, sequences=("T1", "FLAIR"))
    assert case.case_id == "patient" and kdcore.read_case(paths, sequences="TF").case_id == "a"
    np.testing.assert_array_equal(case.image[..., 1], voxels(1))
    with pytest.raises(ValueError, match="2 images, but 1 sequences"):
        kdcore.read_case(paths, mask)
    empty = write_nifti(tmp_path / "empty.nii.gz", np.ones(SHAPE, np.float32))
    with pytest.raises(ValueError, match=r"empty.nii.gz: every voxel is 1.0"):
        kdcore.read_case([paths[0], empty], sequences=("T1", "FLAIR"))
    other = write_nifti(tmp_path / "c.nii.gz", voxels(2)[1:])
    with pytest.raises(ValueError, match=r"c.nii.gz has shape .*a.nii.gz has"):
        kdcore.read_case([paths[0], other], sequences=("T1", "FLAIR"))


# --- where its maps lie ------------------------------------------------------------------

LPS = np.array([[-2.0, 0, 0, 90], [0, -1.5, 0, 80], [0, 0, 3.0, -40], [0, 0, 0, 1]])


def scan(affine=LPS, case_id="a"):
    edges = tuple(np.linalg.norm(affine[:3, :3], axis=0))
    return kdcore.Case(case_id, voxels(0)[..., None], None, edges, affine=affine)


def exported(folder, case, about, protocol=4):
    """Its map as nnU-Net writes it, and what lies beside; p(1) is the voxel's number over 120."""
    numbers = np.arange(case.image[..., 0].size, dtype=np.float32).reshape(case.image.shape[:3])
    p = np.stack([1 - numbers / 120, numbers / 120], axis=-1)
    np.savez(folder / f"{case.case_id}.npz", probabilities=p.transpose(3, 2, 1, 0))
    (folder / f"{case.case_id}.pkl").write_bytes(pickle.dumps(about, protocol=protocol))
    return p


def by_nibabel(original, reoriented=None):
    stuff = {"original_affine": original, "reoriented_affine": reoriented}
    stuff = {key: value for key, value in stuff.items() if value is not None}
    return {"nibabel_stuff": stuff, "spacing": [3.0, 1.5, 2.0], "shape_before_cropping": (6, 5, 4)}


def by_itk(affine, *keys):
    """ITK's x and y run the other way than NIfTI's."""
    affine = np.diag([-1.0, -1, 1, 1]) @ affine
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    values = [tuple(v.ravel().tolist()) for v in (edges, affine[:3, 3], affine[:3, :3] / edges)]
    return dict(zip(keys, values, strict=True))


ITK = ("spacing", "origin", "direction")
WRITTEN = {
    "SimpleITKIO": {"sitk_stuff": by_itk(LPS, *ITK), "spacing": [3.0, 1.5, 2.0]},
    "NibabelIO": by_nibabel(LPS),
    "NibabelIOWithReorient, nothing to turn": by_nibabel(LPS, LPS),
    "version 1": by_itk(LPS, *(f"itk_{key}" for key in ITK)),
    "float32, columns first": by_nibabel(np.asfortranarray(LPS, np.float32)),
    "big-endian": by_nibabel(LPS.astype(">f8")),
    "natural images": {"spacing": (999, 1, 1)},
    "2-D": {"sitk_stuff": {"spacing": (1.0, 1.0), "origin": (0.0, 0.0), "direction": (1.0,) * 4}},
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_map_that_lies_as_the_case(tmp_path, name, protocol):
    p = exported(tmp_path, scan(), WRITTEN[name], protocol)
    np.testing.assert_array_equal(kdcore.NNUNetProbabilities(tmp_path)(scan()), p)


def test_a_map_that_nnunet_turned_is_turned_back(tmp_path):
    """`NibabelIOWithReorient` exports its maps with the axes to the right, front and top."""
    case = scan()
    turned = kdcore.reorient(case, "RAS")
    p = exported(tmp_path, turned, by_nibabel(LPS, turned.affine))
    found = kdcore.NNUNetProbabilities(tmp_path)(case)
    np.testing.assert_array_equal(found, p[::-1, ::-1])
    wrong = exported(tmp_path, case, by_nibabel(LPS))
    assert found.shape == wrong.shape and not np.allclose(found, wrong)  # shapes cannot tell


@pytest.mark.parametrize("axes", ["SPR", "RAS", "ILA"])
def test_a_case_that_was_reoriented(tmp_path, axes):
    case = scan()
    p = exported(tmp_path, case, {"sitk_stuff": by_itk(LPS, *ITK)})
    shown = kdcore.reorient(replace(case, image=p[..., 1:]), axes)  # the map, as a scan
    found = kdcore.NNUNetProbabilities(tmp_path)(kdcore.reorient(case, axes))
    np.testing.assert_array_equal(found[..., 1:], shown.image)


def test_a_map_of_another_place_is_refused(tmp_path):
    shift = np.eye(4)
    shift[0, 3] = 2.0  # one voxel
    exported(tmp_path, scan(), by_nibabel(shift @ LPS))
    with pytest.raises(ValueError, match="a: by .*a.pkl its probabilities lie up to 1 voxels from"):
        kdcore.NNUNetProbabilities(tmp_path)(scan())
    kdcore.NNUNetProbabilities(tmp_path)(replace(scan(), affine=None))  # nothing to compare with


class Trap:
    def __init__(self, fired):
        self.fired = fired

    def __reduce__(self):
        return (self.fired.touch, ())


def test_what_lies_beside_a_map_runs_no_code(tmp_path):
    fired = tmp_path / "fired"
    about = by_nibabel(LPS) | {"trap": Trap(fired)}
    p = exported(tmp_path, scan(), about)
    np.testing.assert_array_equal(kdcore.NNUNetProbabilities(tmp_path)(scan()), p)
    assert not fired.exists()
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert fired.exists()  # the trap works


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no such file",
        pickle.dumps(by_nibabel(LPS))[:-40],
        pickle.dumps(by_nibabel(LPS[:2])),
        pickle.dumps(by_nibabel(LPS * 0)),
        pickle.dumps(by_nibabel("x")),
        pickle.dumps([1, 2, 3]),
        b"(" * 100 + b"t" * 200 + b".",
        b"\x80\x04]\x94h\x00a.",  # a list in itself
        b"\x85" * 1000,
    ],
)
def test_what_does_not_say_where_the_map_lies(tmp_path, content):
    exported(tmp_path, scan(), {})
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=r"a.pkl does not say where the map beside it lies"):
        kdcore.NNUNetProbabilities(tmp_path)(scan())


# --- a folder that grows, and maps that change ----------------------------------------------


def test_maps_may_be_added(tmp_path):
    cases = [scan(case_id=name) for name in "ab"]
    maps, soft = tmp_path / "maps", tmp_path / "soft"
    maps.mkdir()
    exported(maps, cases[0], by_nibabel(LPS))
    kdcore.SoftTargets.write(kdcore.NNUNetProbabilities(maps), cases[:1], soft)
    exported(maps, cases[1], by_nibabel(LPS))
    teacher = kdcore.NNUNetProbabilities(maps)
    assert len(kdcore.SoftTargets.write(teacher, cases, soft)) == 2
    assert len(kdcore.SoftTargets.open(soft, teacher=teacher, cases=cases)) == 2
    assert unseen(teacher) == [] and case_digest(teacher, "a") and case_digest([teacher], "a")


@pytest.mark.parametrize("changed", ["npz", "pkl"])
def test_a_map_that_changed_is_labelled_again_and_never_handed_out(tmp_path, changed):
    case, maps, soft = scan(), tmp_path / "maps", tmp_path / "soft"
    maps.mkdir()
    exported(maps, case, by_nibabel(LPS))
    teacher = kdcore.NNUNetProbabilities(maps)
    before = np.array(kdcore.SoftTargets.write(teacher, [case], soft)["a"])
    if changed == "npz":
        p = np.full((2, *SHAPE[::-1]), 0.5, np.float32)
        np.savez(maps / "a.npz", probabilities=p)
    else:
        turned = kdcore.reorient(case, "RAS").affine
        (maps / "a.pkl").write_bytes(pickle.dumps(by_nibabel(LPS, turned)))
    with pytest.raises(ValueError, match="the teacher's own file for a is not the one"):
        kdcore.SoftTargets.open(soft, teacher=teacher)
    after = np.array(kdcore.SoftTargets.write(teacher, [case], soft)["a"])
    expected = np.full_like(after, np.log(0.5)) if changed == "npz" else before[::-1, ::-1]
    np.testing.assert_allclose(after, expected, atol=1e-3)
    kdcore.SoftTargets.open(soft, teacher=teacher)
