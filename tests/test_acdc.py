"""ACDC: both layouts, the standard split, and what a damaged folder is told."""

import dataclasses
from itertools import pairwise

import h5py
import numpy as np
import pytest
from conftest import acdc_volume, write_h5, write_nifti

import kdcore
from kdcore.data.acdc import acdc_info, acdc_patient, acdc_split, read_acdc
from kdcore.data.splits import PARTS
from kdcore.evaluation.metrics import evaluate_case

IDS = [f"patient{p:03d}_frame{f:02d}" for p in range(1, 101) for f in (1, 12)]
LPS = np.diag([-1.5, -1.5, 10.0, 1.0])


def write_patient(folder, number=1, frames=(1, 12), affine=LPS):
    """A patient in the challenge's own layout; frame f holds `acdc_volume(f)`, slices last."""
    patient = folder / f"patient{number:03d}"
    for frame in frames:
        image, mask = acdc_volume(frame)
        stem = patient / f"{patient.name}_frame{frame:02d}"
        write_nifti(stem.with_name(f"{stem.name}.nii.gz"), image.T, affine)
        write_nifti(stem.with_name(f"{stem.name}_gt.nii.gz"), mask.T.astype(np.uint8), affine)
    (patient / f"{patient.name}_4d.nii.gz").write_bytes(b"the whole cine, which is not read")
    (patient / "Info.cfg").write_text(
        f"ED: {frames[0]}\nES: {frames[1]}\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n"
    )
    return patient


@pytest.fixture
def volumes(tmp_path):
    folder = tmp_path / "ACDC" / "ACDC_training_volumes"
    for frame in (1, 12):
        write_h5(folder / f"patient001_frame{frame:02d}.h5", *acdc_volume(frame), scribble=[0])
    return folder


# --- reading -------------------------------------------------------------------------------


@pytest.mark.parametrize("above", ["", "training", "database/testing"])
def test_the_challenges_layout(tmp_path, above):
    write_patient(tmp_path / above, 2)
    write_patient(tmp_path / above, 1, (4, 11))
    cases = read_acdc(tmp_path)
    assert [case.case_id for case in cases] == [
        "patient001_frame04", "patient001_frame11", "patient002_frame01", "patient002_frame12",
    ]  # fmt: skip
    for case, frame in zip(cases, (4, 11, 1, 12), strict=True):
        image, mask = acdc_volume(frame)
        np.testing.assert_array_equal(case.image[..., 0], image)
        np.testing.assert_array_equal(case.mask, mask)
        assert case.spacing_mm == (10.0, 1.5, 1.5) and case.sequences == ("cine",)


def test_a_voxel_stays_where_it_was(tmp_path):
    affine = np.array([[0, 1.5, 2.0, 7], [1.25, 0, 6.0, -3], [0.75, 2.0, 0, 11], [0, 0, 0, 1.0]])
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    write_patient(tmp_path, affine=affine)
    case = read_acdc(tmp_path)[0]
    voxels = kdcore.data.nifti.read_nifti(tmp_path / "patient001" / "patient001_frame01.nii.gz")[0]
    assert case.image[2, 4, 1, 0] == voxels[1, 4, 2]
    np.testing.assert_allclose(case.affine @ [2, 4, 1, 1], affine @ [1, 4, 2, 1])
    np.testing.assert_allclose(case.spacing_mm, np.linalg.norm(case.affine[:3, :3], axis=0))


def test_an_affine_without_sizes_gets_the_headers(tmp_path):
    """As in the challenge's files: the sform holds −1, −1, 1, the header 1.5, 1.5, 10 mm."""
    import nibabel

    write_patient(tmp_path)
    for path in tmp_path.glob("*/*_frame*.nii.gz"):
        image = nibabel.load(path)
        array = np.asarray(image.dataobj)
        image = nibabel.Nifti1Image(array, None, image.header)
        image.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1, update_affine=False)
        nibabel.save(image, path)
    path = tmp_path / "patient001" / "patient001_frame01.nii.gz"
    assert nibabel.load(path).affine[0, 0] == -1.0
    with pytest.raises(ValueError, match="contradicts itself: voxels of"):
        kdcore.read_case(path)  # only this challenge is known for it
    case = read_acdc(tmp_path)[0]
    assert case.spacing_mm == (10.0, 1.5, 1.5)
    np.testing.assert_array_equal(case.affine[:3, :3], [[0, 0, -1.5], [0, -1.5, 0], [10, 0, 0]])


def test_what_info_says(tmp_path):
    write_patient(tmp_path / "training")
    expected = {"ED": 1, "ES": 12, "Group": "DCM", "Height": 184, "NbFrame": 30, "Weight": 95}
    assert acdc_info(tmp_path) == {"patient001": expected}


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32, np.float64])
def test_volumes_of_any_number(volumes, dtype):
    image, mask = acdc_volume(1)
    write_h5(volumes / "patient001_frame01.h5", image.astype(dtype), mask.astype(dtype))
    for folder in (volumes, volumes.parent, volumes.parent.parent):
        first, second = read_acdc(folder)
        np.testing.assert_array_equal(first.image[..., 0], image)
        np.testing.assert_array_equal(first.mask, mask)
        assert (first.case_id, second.case_id) == ("patient001_frame01", "patient001_frame12")
    assert acdc_info(volumes) == {}


def test_both_layouts_lie_alike(volumes, tmp_path):
    write_patient(tmp_path / "challenge")
    for a, b in zip(read_acdc(volumes), read_acdc(tmp_path / "challenge"), strict=True):
        assert a.case_id == b.case_id
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)


# --- what the HDF5 volumes do not say --------------------------------------------------------


def test_without_a_size_there_is_dice_and_no_distance(volumes):
    case = read_acdc(volumes)[0]
    assert not case.has_spacing and np.isnan(case.spacing_mm).all() and case.affine is None
    entry = evaluate_case(case, np.eye(4)[case.mask])
    for label in ("1", "2", "3"):
        assert entry[label]["dice"] == 1
        assert np.isnan(entry[label]["surface_dice_1mm"]) and np.isnan(entry[label]["hd95_mm"])
    with pytest.raises(ValueError, match="Distances in mm need the size of the voxels"):
        kdcore.surface_distances(case.mask, case.mask, 1, case.spacing_mm)
    with pytest.raises(ValueError, match="patient001_frame01: the size of its voxels is not known"):
        kdcore.resample(case, 1.0)
    measured = dataclasses.replace(case, spacing_mm=(10.0, 1.5, 1.5))
    assert evaluate_case(measured, np.eye(4)[case.mask])["1"]["hd95_mm"] == 0


def test_a_mask_of_it_can_be_saved(volumes, tmp_path):
    case = read_acdc(volumes)[0]
    path = kdcore.save_mask(tmp_path / "mask.nii.gz", case.mask, case)
    np.testing.assert_array_equal(kdcore.read_case(path).image[..., 0], case.mask)


# --- patients and the standard split ---------------------------------------------------------


def test_whose_scan_it_is():
    assert acdc_patient("patient007_frame02") == "patient007"
    with pytest.raises(ValueError, match="hippocampus_001 is no case of ACDC"):
        acdc_patient("hippocampus_001")


def test_the_standard_split():
    split = acdc_split(IDS, 3)
    assert split.labelled == (
        "patient038_frame01", "patient038_frame12", "patient050_frame01",
        "patient050_frame12", "patient099_frame01", "patient099_frame12",
    )  # fmt: skip
    assert [len(ids) for ids in (split.unlabelled, split.validation, split.test)] == [134, 20, 40]
    assert split.validation[:2] == ("patient002_frame01", "patient002_frame12")
    assert "patient011_frame12" in split.test and "patient100_frame01" in split.unlabelled
    whole = {part: {acdc_patient(i) for i in getattr(split, part)} for part in PARTS}
    assert sum(len(patients) for patients in whole.values()) == len(set().union(*whole.values()))


def test_more_labels_hold_the_fewer_ones():
    splits = [acdc_split(reversed(IDS), count) for count in (1, 3, 7, 70)]
    assert [len(split.labelled) for split in splits] == [2, 6, 14, 140]
    for fewer, more in pairwise(splits):
        assert set(fewer.labelled) < set(more.labelled) and fewer.test == more.test
    assert splits[-1].unlabelled == ()


def test_of_cases_and_beside_the_challenges_test_set():
    image = np.zeros((1, 1, 1, 1))
    more = [kdcore.Case(i, image, None, (1, 1, 1)) for i in [*IDS, "patient101_frame01"]]
    assert acdc_split(more, 7) == acdc_split(IDS, 7)


def test_impossible_standard_splits():
    with pytest.raises(ValueError, match="1 to 7 labelled patients, or all 70. Received: 8"):
        acdc_split(IDS, 8)
    with pytest.raises(
        ValueError, match="1 of the 100 patients are not there, among them patient050"
    ):
        acdc_split([i for i in IDS if "050" not in i])


# --- bad input -------------------------------------------------------------------------------


def refused(folder, kind, match):
    with pytest.raises(kind, match=match):
        read_acdc(folder)


def test_no_folder_and_no_patients(tmp_path):
    refused(tmp_path / "nothing", FileNotFoundError, "nothing is not a folder")
    refused(tmp_path, FileNotFoundError, "holds no patient of ACDC. Expected patient001/")


def test_a_patient_with_one_frame(tmp_path, volumes):
    (volumes / "patient001_frame12.h5").unlink()
    refused(volumes, ValueError, "patient001 has 1 frames in .*ACDC_training_volumes.*Expected two")
    patient = write_patient(tmp_path / "challenge")
    (patient / "patient001_frame12.nii.gz").unlink()
    refused(patient.parent, FileNotFoundError, r"Info.cfg names 12, but .* no patient001_frame12")


@pytest.mark.parametrize(
    "text", [None, "", "ED: 1", "ED: 1\nES: 1", "ED: one\nES: 2", "ED: 0\nES: 2"]
)
def test_info_that_names_no_two_frames(tmp_path, text):
    info = write_patient(tmp_path) / "Info.cfg"
    if text is None:
        info.unlink()
        refused(tmp_path, FileNotFoundError, r"Info.cfg does not exist. It says which frames")
    else:
        info.write_text(text)
        refused(
            tmp_path, ValueError, r"Info.cfg names no two frames. Expected lines such as `ED: 1`"
        )


def test_a_mask_that_is_missing_or_does_not_fit(tmp_path):
    patient = write_patient(tmp_path)
    mask = patient / "patient001_frame12_gt.nii.gz"
    write_nifti(mask, acdc_volume()[1].T[1:].astype(np.uint8), LPS)
    refused(tmp_path, ValueError, r"frame12_gt.nii.gz has shape \(3, 5, 3\), but .*has \(4, 5, 3\)")
    write_nifti(mask, acdc_volume()[1].T.astype(np.uint8), np.diag([-2.0, -1.5, 10, 1]))
    refused(tmp_path, ValueError, "frame12_gt.nii.gz and .* have different affines")
    write_nifti(mask, np.full((4, 5, 3), 4, np.uint8), LPS)
    refused(tmp_path, ValueError, r"frame12_gt.nii.gz holds the labels \[4\]")
    mask.rename(mask.with_name("patient001_frame12_mask.nii.gz"))
    refused(tmp_path, FileNotFoundError, r"frame12.nii.gz has no mask: patient001_frame12_gt")


def test_a_frame_that_is_a_cine_or_cut_short(tmp_path):
    path = write_patient(tmp_path) / "patient001_frame01.nii.gz"
    whole = path.read_bytes()
    write_nifti(path, np.ones((4, 5, 3, 2), np.float32), LPS)
    refused(tmp_path, ValueError, r"frame01.nii.gz has shape \(4, 5, 3, 2\). Expected one frame")
    path.write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, ValueError, "frame01.nii.gz is no readable NIfTI file")


@pytest.mark.parametrize("layout", ["volumes", "challenge"])
def test_a_patient_in_two_folders(tmp_path, layout):
    for place in ("a", "b"):
        if layout == "challenge":
            write_patient(tmp_path / place, 7)
            continue
        for frame in (1, 12):
            write_h5(tmp_path / place / f"patient007_frame{frame:02d}.h5", *acdc_volume())
    refused(tmp_path, ValueError, r"patient007 is there twice: .*a.* and .*b")


def test_both_layouts_in_one_folder(volumes):
    write_patient(volumes.parent)
    refused(volumes.parent, ValueError, r"holds HDF5 volumes .*and the challenge's folders")


def test_a_volume_that_is_not_whole(volumes):
    path = volumes / "patient001_frame12.h5"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no HDF5"):
        path.write_bytes(content)
        refused(volumes, ValueError, r"frame12.h5 is no readable volume.*fetch it again")
    content = bytearray(whole)
    middle = whole.index(b"\x78\x5e") if b"\x78\x5e" in whole else len(whole) // 2
    content[middle + 4 : middle + 12] = b"damaged!"
    path.write_bytes(content)
    refused(volumes, ValueError, r"frame12.h5 is no readable volume")


@pytest.mark.parametrize(
    ("image", "label", "message"),
    [
        (np.ones((3, 5)), np.ones((3, 5)), r"its `image` is float64 of shape \(3, 5\); expected"),
        (np.full((2, 2, 2), 1j), np.ones((2, 2, 2)), r"its `image` is complex128"),
        (
            acdc_volume()[0],
            np.ones((3, 5, 5)),
            r"`label` has shape \(3, 5, 5\), `image` \(3, 5, 4\)",
        ),
        (
            acdc_volume()[0],
            acdc_volume()[1] + 0.5,
            r"frame12.h5: labels such as .* are not whole numbers",
        ),
        (acdc_volume()[0], acdc_volume()[1] + 1, r"frame12.h5 holds the labels \[4\]"),
        (
            acdc_volume()[0] * np.nan,
            acdc_volume()[1],
            r"frame12.h5: patient001_frame12: 60 voxels are NaN",
        ),
        (np.ones((3, 5, 4)), acdc_volume()[1], r"frame12.h5: every voxel is 1.0"),
    ],
)
def test_a_volume_that_does_not_fit(volumes, image, label, message):
    write_h5(volumes / "patient001_frame12.h5", image, label)
    refused(volumes, ValueError, message)


def test_a_volume_without_label_or_with_one_from_elsewhere(volumes):
    path = volumes / "patient001_frame12.h5"
    for link in (
        None,
        h5py.ExternalLink("patient001_frame01.h5", "/label"),
        h5py.SoftLink("/image"),
    ):
        with h5py.File(path, "w") as file:
            file["image"] = acdc_volume()[0]
            if link is not None:
                file["label"] = link
        expected = "it has no array `label`" if link is None else "its `label` lies in another"
        refused(volumes, ValueError, rf"frame12.h5 is no readable volume of ACDC: {expected}")


def test_a_volume_that_claims_more_than_can_be(volumes):
    with h5py.File(volumes / "patient001_frame12.h5", "w") as file:
        for key in ("image", "label"):
            file.create_dataset(key, (2000, 2000, 2000), "u1", chunks=(1, 100, 100))
    refused(volumes, ValueError, r"frame12.h5 .*\(2000, 2000, 2000\); 1 to 536870912 voxels")
