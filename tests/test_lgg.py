"""LGG slices: three sequences that must be three, and names that must fit."""

import warnings

import numpy as np
import pytest
from PIL import Image

import kdcore
from kdcore.data.lgg import lgg_site, read_lgg

PATIENT = "TCGA_DU_5849_19950405"


def write_tiff(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, compression="tiff_adobe_deflate")
    return path


def write_patient(folder, name=PATIENT, slices=11, copies=()):
    """Slice n shows 10 n + channel everywhere but in a corner; the mask is its n-th row."""
    for number in range(1, slices + 1):
        image = np.tile(np.arange(3, dtype=np.uint8) + 10 * number, (12, 8, 1))
        image[0, 0] = 0
        for channel in copies:
            image[..., channel] = image[..., 1]
        mask = np.zeros((12, 8), np.uint8)
        mask[number] = 255
        write_tiff(folder / name / f"{name}_{number}.tif", image)
        write_tiff(folder / name / f"{name}_{number}_mask.tif", mask)
    return folder / name


def refused(folder, kind, match):
    with pytest.raises(kind, match=match):
        read_lgg(folder)


@pytest.mark.parametrize("above", ["", "kaggle_3m", "LGG/kaggle_3m"])
def test_reads_what_was_written(tmp_path, above):
    write_patient(tmp_path / above)
    (tmp_path / above / "data.csv").write_text("Patient,RNASeqCluster\n")
    (case,) = read_lgg(tmp_path)
    assert case.case_id == PATIENT and case.sequences == ("T1", "FLAIR", "T1c")
    assert case.image.shape == (11, 12, 8, 3) and not case.has_spacing
    # by number, not by name: 1, 2, … 10, 11
    assert case.image[:, 5, 5, 1].tolist() == [11, 21, 31, 41, 51, 61, 71, 81, 91, 101, 111]
    assert case.image[2, 5, 5].tolist() == [30, 31, 32]
    assert case.mask.sum() == 11 * 8 and (case.mask[2, 3] == 1).all()


def test_a_copy_of_flair_is_found_and_left_out(tmp_path):
    write_patient(tmp_path)
    write_patient(tmp_path, "TCGA_FG_7634_20000128", copies=(2,))
    write_patient(tmp_path, "TCGA_HT_7877_19980917", copies=(0, 2))
    with pytest.warns(UserWarning) as caught:
        assert [case.case_id for case in read_lgg(tmp_path)] == [PATIENT]
    (message,) = [str(w.message) for w in caught]
    assert message == (
        "2 of 3 patients are left out, since the sequences named here are a copy of FLAIR: "
        "TCGA_FG_7634_20000128 (T1c); TCGA_HT_7877_19980917 (T1, T1c)."
    )


def test_one_voxel_that_differs_makes_a_sequence(tmp_path):
    patient = write_patient(tmp_path, copies=(0, 2))
    image = np.asarray(Image.open(patient / f"{PATIENT}_11.tif")).copy()
    image[3, 3] = 1, 2, 3
    write_tiff(patient / f"{PATIENT}_11.tif", image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_lgg(tmp_path)) == 1


def test_nothing_is_left_where_all_are_copies(tmp_path):
    write_patient(tmp_path, copies=(0,))
    with pytest.warns(UserWarning, match="1 of 1 patients"):
        refused(tmp_path, ValueError, "has no patient with all of")


def test_sites_for_a_stratified_split():
    assert lgg_site(PATIENT) == "DU"
    with pytest.raises(ValueError, match="patient001_frame01 is no case of this set"):
        lgg_site("patient001_frame01")
    ids = [f"TCGA_{site}_{n:04d}_20000101" for site in ("CS", "DU") for n in range(20)]
    split = kdcore.split_cases(ids, 4, 6, 10, stratify=lgg_site)
    assert [sum("DU" in i for i in part) for part in (split.labelled, split.test)] == [2, 5]


# --- bad input -------------------------------------------------------------------------------


def test_no_folder_no_patients_no_slices(tmp_path):
    refused(tmp_path / "nothing", FileNotFoundError, "nothing is not a folder")
    refused(tmp_path, FileNotFoundError, "has no patients. Expected kaggle_3m")
    (tmp_path / PATIENT).mkdir()
    refused(tmp_path, FileNotFoundError, f"{PATIENT} has no slices")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((12, 8), np.uint8), r"_2.tif is of mode L, 12 × 8 pixels. Expected 8 bits, three"),
        (np.ones((12, 8), np.uint16), r"_2.tif is of mode I;16, 12 × 8 pixels. Expected 8 bits"),
        (np.ones((12, 8, 4), np.uint8), r"_2.tif is of mode RGBA"),
        (
            np.ones((8, 8, 3), np.uint8),
            r"_2.tif is of mode RGB, 8 × 8 .* 12 × 8 as the first slice",
        ),
    ],
)
def test_slices_of_another_kind(tmp_path, array, message):
    write_tiff(write_patient(tmp_path, slices=3) / f"{PATIENT}_2.tif", array)
    refused(tmp_path, ValueError, message)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((8, 8), np.uint8),
            r"_2_mask.tif is of mode L, 8 × 8 .* one channel \(L\), 12 × 8",
        ),
        (np.zeros((12, 8, 3), np.uint8), r"_2_mask.tif is of mode RGB"),
        (
            np.full((12, 8), 128, np.uint8),
            r"_2_mask.tif holds values such as 128. A mask is 0 or 255",
        ),
        (np.ones((12, 8), np.uint8), r"_2_mask.tif holds values such as 1"),
    ],
)
def test_masks_of_another_kind(tmp_path, array, message):
    write_tiff(write_patient(tmp_path, slices=3) / f"{PATIENT}_2_mask.tif", array)
    refused(tmp_path, ValueError, message)


def test_a_file_that_is_cut_short_or_no_tiff(tmp_path):
    path = write_patient(tmp_path) / f"{PATIENT}_7.tif"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\x89PNG\r\n\x1a\n"):
        path.write_bytes(content)
        refused(tmp_path, ValueError, r"_7.tif is no readable TIFF file of 8 bits")


def test_names_that_do_not_match(tmp_path):
    patient = write_patient(tmp_path)
    mask = patient / f"{PATIENT}_4_mask.tif"
    moved = mask.rename(patient / "TCGA_DU_5851_19950428_4_mask.tif")
    refused(tmp_path, ValueError, r"5851_19950428_4_mask.tif is not named as its folder")
    moved.unlink()
    refused(tmp_path, FileNotFoundError, rf"lacks a mask: {PATIENT}_4_mask.tif does not exist")
    (patient / f"{PATIENT}_4.tif").unlink()
    refused(tmp_path, FileNotFoundError, rf"lacks a slice: {PATIENT}_4.tif does not exist")
    other = tmp_path / "b"
    (write_patient(other) / f"{PATIENT}_11.tif").unlink()  # the last one, so no gap
    refused(other, FileNotFoundError, rf"lacks a slice: {PATIENT}_11.tif does not exist")


def test_a_patient_in_two_folders_or_of_no_site(tmp_path):
    write_patient(tmp_path)
    write_patient(tmp_path, "TCGA_DU_5849_20000101")
    refused(tmp_path, ValueError, r"TCGA_DU_5849 is there twice: .*19950405 and .*20000101")
    write_patient(tmp_path / "b", "TCGA_XX_5849_20000101")
    refused(tmp_path / "b", ValueError, "TCGA_XX_5849_20000101 is no case of this set")
