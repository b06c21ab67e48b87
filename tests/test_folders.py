"""Folders of plain files: what belongs together is told by names."""

import numpy as np
import pytest
from conftest import write_nifti
from PIL import Image

from kdcore.data import read_folder, split_cases

SHAPE = (3, 4, 5)


def voxels(seed):
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def labels(seed):
    return np.random.default_rng(seed).integers(0, 3, SHAPE).astype(np.uint8)


def write(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        return write_nifti(path, array)
    Image.fromarray(array).save(path)
    return path


def test_sequences_and_masks_side_by_side(tmp_path):
    for index, name in enumerate(("Ä 1", "b-2")):
        write(tmp_path / f"{name}_T1.nii.gz", voxels(index))
        write(tmp_path / f"{name}_FLAIR.nii.gz", voxels(10 + index))
    write(tmp_path / "b-2_seg.nii.gz", labels(1))
    images = {"T1": "*_T1.nii.gz", "FLAIR": "*_FLAIR.nii.gz"}
    cases = {case.case_id: case for case in read_folder(tmp_path, images, "*_seg.nii.gz")}
    assert set(cases) == {"Ä 1", "b-2"} and cases["Ä 1"].mask is None
    assert cases["b-2"].sequences == ("T1", "FLAIR")
    np.testing.assert_array_equal(cases["b-2"].image[..., 1], voxels(11))
    np.testing.assert_array_equal(cases["b-2"].mask, labels(1))


def test_a_folder_a_patient_and_sessions(tmp_path):
    for patient in ("01", "02"):
        for session in ("a", "b"):
            stem = f"sub-{patient}/ses-{session}/anat/sub-{patient}_ses-{session}"
            write(tmp_path / f"{stem}_T1w.nii.gz", voxels(0))
            write(tmp_path / "derivatives" / f"{stem}_dseg.nii.gz", labels(0))
    pattern = "sub-*/ses-*/anat/sub-*_ses-*"
    cases = read_folder(tmp_path, f"{pattern}_T1w.nii.gz", f"derivatives/{pattern}_dseg.nii.gz")
    assert [case.case_id for case in cases] == ["01_a", "01_b", "02_a", "02_b"]
    split = split_cases(cases, 1, 0, 1, groups=lambda case: case.case_id.split("_")[0])
    sides = [{name[:2] for name in part} for part in (split.test, split.labelled)]
    assert sides[0] != sides[1] and len(split.test) == len(split.labelled) == 2


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_flat_images(tmp_path, ending):
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 255, (6, 7, 3)).astype(np.uint8)
    mask = rng.integers(0, 3, (6, 7)).astype(np.uint8)
    write(tmp_path / "images" / f"a.{ending}", colours)
    write(tmp_path / "masks" / f"a.{ending}", mask)
    (case,) = read_folder(tmp_path, {"eye": f"images/*.{ending}"}, f"masks/*.{ending}")
    assert case.sequences == ("eye_0", "eye_1", "eye_2") and not case.has_spacing
    np.testing.assert_array_equal(case.image[0], colours)
    np.testing.assert_array_equal(case.mask[0], mask)
    write(tmp_path / "masks" / f"a.{ending}", colours)
    with pytest.raises(ValueError, match=f"a.{ending} has 3 channels. A mask has one"):
        read_folder(tmp_path, f"images/*.{ending}", f"masks/*.{ending}")


def test_what_does_not_belong_together_is_told(tmp_path):
    for name, seed in (("a_T1", 0), ("b_T1", 1), ("a_T2", 2)):
        write(tmp_path / f"{name}.nii.gz", voxels(seed))
    with pytest.raises(FileNotFoundError, match="1 of 2 cases have no T2, among them b"):
        read_folder(tmp_path, {"T1": "*_T1.nii.gz", "T2": "*_T2.nii.gz"})
    write(tmp_path / "c_seg.nii.gz", labels(0))
    with pytest.raises(FileNotFoundError, match=r"c_seg.nii.gz has no image: .* is c, .* a, b"):
        read_folder(tmp_path, "*_T1.nii.gz", "*_seg.nii.gz")
    with pytest.raises(FileNotFoundError, match="Nothing in .* fits"):
        read_folder(tmp_path, "*.mha")
    with pytest.raises(ValueError, match="has no star"):
        read_folder(tmp_path, "a_T1.nii.gz")


def test_two_files_of_one_name(tmp_path):
    write(tmp_path / "a_b" / "c.nii.gz", voxels(0))
    write(tmp_path / "a" / "b_c.nii.gz", voxels(1))
    with pytest.raises(ValueError, match=r"both have the case id a_b_c"):
        read_folder(tmp_path, "*/*.nii.gz")


def test_a_damaged_image_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="a.png is no readable image"):
        read_folder(tmp_path, "*.png")
