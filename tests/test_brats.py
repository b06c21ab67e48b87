"""BraTS folders: each year's names and labels, axes, and voxels of another size."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_brain, make_case, write_brats, write_nifti

import kdcore
from kdcore.data.grid import reorient, resize

SEQUENCES = ("T1", "T1c", "T2", "FLAIR")
NEW = {"T1": "t1n", "T1c": "t1c", "T2": "t2w", "FLAIR": "t2f"}
RAS = np.diag([1.0, 1.0, 1.0, 1.0])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # of the challenge's files
OBLIQUE = np.array([[1.2, 0.1, 0, 7], [-0.1, 0, 1.5, -3], [0, -0.9, 0.1, 11], [0, 0, 0, 1]])


@pytest.fixture
def folder(tmp_path):
    return write_brats(tmp_path / "BraTS")


def write_new_names(folder, mask, subject="BraTS-GLI-00000-000", affine=RAS):
    rng = np.random.default_rng(0)
    for name in NEW.values():
        path = folder / subject / f"{subject}-{name}.nii.gz"
        write_nifti(path, rng.normal(size=mask.shape).astype(np.float32), affine)
    write_nifti(folder / subject / f"{subject}-seg.nii.gz", mask, affine)
    return folder


def small_mask(*labels):
    mask = np.zeros((5, 6, 7), np.uint8)
    mask.flat[: len(labels)] = labels
    return mask


def ball(affine, shape=(40, 36, 44), radius=14.0, center=(18.3, 17.6, 21.1)):
    """A Gaussian blob and, inside of it, a ball in a ball; `center` in voxels."""
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(float)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    distance = np.linalg.norm((grid - center) * spacing, axis=-1)
    mask = (distance < radius).astype(np.uint8) + (distance < 0.7 * radius)
    image = 100 * np.exp(-0.5 * (distance / 4) ** 2)
    return kdcore.Case("ball", image[..., None], mask, tuple(spacing), affine=affine)


def position_mm(case, weight):
    """Centre of mass in scanner coordinates."""
    index = np.indices(weight.shape).reshape(3, -1)
    center = (index * weight.ravel()).sum(axis=1) / weight.sum()
    return case.affine[:3, :3] @ center + case.affine[:3, 3]


# --- reading ----------------------------------------------------------------------------


def test_reads_what_was_written(folder):
    cases = kdcore.read_brats(folder)
    assert [case.case_id for case in cases] == [f"BraTS2021_{i:05d}" for i in range(3)]
    for index, case in enumerate(cases):
        expected = make_brain(index)
        np.testing.assert_array_equal(case.image, expected.image)
        np.testing.assert_array_equal(case.mask, expected.mask)
        np.testing.assert_array_equal(case.affine, expected.affine)
        assert case.sequences == SEQUENCES and case.spacing_mm == (2.0, 2.0, 2.0)


def test_some_sequences_only_need_their_files(folder):
    for path in folder.glob("*/*_t2.nii.gz"):
        path.unlink()
    case = kdcore.read_brats(folder, sequences=("FLAIR", "T1"))[0]
    assert case.sequences == ("FLAIR", "T1")
    np.testing.assert_array_equal(case.image, make_brain(0).image[..., [3, 0]])
    with pytest.raises(FileNotFoundError, match=r"BraTS2021_00000 has no T2: .*_t2.*-t2w"):
        kdcore.read_brats(folder)


def test_labels_until_2021(tmp_path):
    write_brats(tmp_path, [make_brain(0, (5, 6, 7))])
    path = tmp_path / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz"
    write_nifti(path, small_mask(1, 2, 4), make_brain(0).affine)
    mask = kdcore.read_brats(tmp_path)[0].mask
    assert mask.flat[:4].tolist() == [2, 1, 2, 0]


def test_labels_and_names_from_2023_on(tmp_path):
    write_new_names(tmp_path, small_mask(1, 2, 3))
    case = kdcore.read_brats(tmp_path)[0]
    assert case.case_id == "BraTS-GLI-00000-000" and case.sequences == SEQUENCES
    assert [(case.mask == label).sum() for label in (0, 1, 2)] == [5 * 6 * 7 - 3, 1, 2]
    voxels = kdcore.data.nifti.read_nifti(tmp_path / case.case_id / f"{case.case_id}-t1c.nii.gz")[0]
    np.testing.assert_array_equal(case.image[..., 1], voxels.transpose(2, 1, 0)[:, ::-1])


def test_a_resection_cavity_is_no_tumour(tmp_path):
    write_new_names(tmp_path, small_mask(1, 2, 3, 4))
    with pytest.raises(ValueError, match=r"-seg.nii.gz holds the label 4.*resection cavity"):
        kdcore.read_brats(tmp_path)


def test_labels_of_children(tmp_path):
    """1 enhancing, 2 non-enhancing, 3 cystic tumour, 4 oedema."""
    name, mask = "BraTS-PED-00002-000", small_mask(1, 2, 3, 4)
    for ending in ("t1n", "t1c", "t2w", "t2f"):
        image = np.random.default_rng(0).normal(size=mask.shape)
        write_nifti(tmp_path / name / f"{name}-{ending}.nii.gz", image)
    write_nifti(tmp_path / name / f"{name}-seg.nii.gz", mask)
    (case,) = kdcore.read_brats(tmp_path)
    counts = [int((case.mask == label).sum()) for label in (1, 2)]
    assert counts == [int((mask == 4).sum()), int(np.isin(mask, (1, 2, 3)).sum())]


def test_capital_letters_and_folders_that_are_called_as_files(folder):
    first, second = (folder / f"BraTS2021_0000{n}" for n in (0, 1))
    for old, new in (("_t1", "_T1"), ("_t1ce", "_T1c"), ("_seg", "_tumor_segmentation")):
        (first / f"{first.name}{old}.nii.gz").rename(first / f"{first.name}{new}.nii.gz")
    path = second / f"{second.name}_t2.nii.gz"
    inner = path.rename(second / "moved")
    path.mkdir()
    inner.rename(path / path.name)
    for index, case in enumerate(kdcore.read_brats(folder)[:2]):
        np.testing.assert_array_equal(case.image, make_brain(index).image)
        np.testing.assert_array_equal(case.mask, make_brain(index).mask)
    (path / "another.nii.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="_t2.nii.gz is a folder of 2 files"):
        kdcore.read_brats(folder)


def test_unknown_label(tmp_path):
    write_new_names(tmp_path, small_mask(1, 2, 5))
    with pytest.raises(ValueError, match=r"-seg.nii.gz holds the labels \[5\]. Expected"):
        kdcore.read_brats(tmp_path)


def test_without_a_mask(folder):
    (folder / "BraTS2021_00001" / "BraTS2021_00001_seg.nii.gz").unlink()
    assert [case.mask is None for case in kdcore.read_brats(folder)] == [False, True, False]


def test_uncompressed_files_and_apple_double_files(folder):
    subject = folder / "BraTS2021_00000"
    (subject / "._BraTS2021_00000_t1.nii.gz").write_bytes(b"not an image")
    path = subject / "BraTS2021_00000_t1.nii.gz"
    path.unlink()
    write_nifti(subject / "other_t1.nii", make_brain(0).image[..., 0], make_brain(0).affine)
    np.testing.assert_array_equal(kdcore.read_brats(folder)[0].image, make_brain(0).image)


def test_two_files_for_one_sequence(folder):
    subject = folder / "BraTS2021_00000"
    write_nifti(subject / "BraTS2021_00000-t1n.nii.gz", make_brain(0).image[..., 0])
    with pytest.raises(ValueError, match=r"two files for T1: .*-t1n.nii.gz and .*_t1.nii.gz"):
        kdcore.read_brats(folder)


def test_a_misnamed_mask_is_pointed_out(folder):
    """As in BraTS 2020, subject 355."""
    path = folder / "BraTS2021_00000" / "BraTS2021_00000_seg.nii.gz"
    path.rename(path.with_name("W39_1998.09.19_Segm.nii.gz"))
    with pytest.warns(UserWarning, match="Segm.nii.gz is neither a sequence nor a mask"):
        assert kdcore.read_brats(folder)[0].mask is None


@pytest.mark.parametrize("ending", ["t2", "seg"])
def test_files_on_different_grids(folder, ending):
    path = folder / "BraTS2021_00000" / f"BraTS2021_00000_{ending}.nii.gz"
    array = make_brain(0).mask
    write_nifti(path, array, make_brain(0).affine + np.eye(4, k=3))
    with pytest.raises(ValueError, match=f"_{ending}.nii.gz and .*_t1.nii.gz have different aff"):
        kdcore.read_brats(folder)
    write_nifti(path, array[1:], make_brain(0).affine)
    with pytest.raises(ValueError, match=f"_{ending}.nii.gz has shape .*one grid"):
        kdcore.read_brats(folder)


def test_no_subjects_and_no_folder(folder):
    for wrong in (folder / "BraTS2021_00000", folder.parent):  # one too deep, one too high
        with pytest.raises(FileNotFoundError, match="has no subjects. Expected a sub-folder"):
            kdcore.read_brats(wrong)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        kdcore.read_brats(folder / "nothing")


@pytest.mark.parametrize("sequences", [(), ("T1", "T1"), ("T1", "PET")])
def test_impossible_sequences(folder, sequences):
    with pytest.raises(ValueError, match="sequence.* must be .*Received"):
        kdcore.read_brats(folder, sequences=sequences)


def test_axial_slices_whatever_the_file_says(tmp_path):
    """One anatomy, written in two orientations, is read as the same array."""
    import nibabel

    case = make_brain(0)
    for name, affine in (("a", case.affine), ("b", LPS)):
        here = nibabel.orientations.io_orientation(case.affine)
        there = nibabel.orientations.io_orientation(affine)
        turn = nibabel.orientations.ornt_transform(here, there)
        image, mask = (
            nibabel.orientations.apply_orientation(a, turn) for a in (case.image, case.mask)
        )
        affine = case.affine @ nibabel.orientations.inv_ornt_aff(turn, case.mask.shape)
        turned = replace(case, case_id=name, image=image, mask=mask, affine=affine)
        write_brats(tmp_path, [turned])
    a, b = kdcore.read_brats(tmp_path)
    for read in (a, b):
        np.testing.assert_array_equal(read.image, case.image)
        np.testing.assert_array_equal(read.mask, case.mask)
        np.testing.assert_allclose(read.affine, case.affine, atol=1e-6)


def test_with_another_spacing(folder):
    read, again = kdcore.read_brats(folder)[0], kdcore.read_brats(folder, spacing_mm=4.0)[0]
    assert again.image.shape == (4, 13, 10, 4) and again.spacing_mm == (4.0, 4.0, 4.0)
    expected = kdcore.resample(read, 4.0)
    np.testing.assert_array_equal(again.image, expected.image)
    np.testing.assert_array_equal(again.mask, expected.mask)


# --- another grid -----------------------------------------------------------------------


@pytest.mark.parametrize("affine", [RAS, LPS, OBLIQUE])
def test_reorientation_moves_nothing(affine):
    import nibabel

    case = ball(affine)
    turned = reorient(case)
    assert nibabel.aff2axcodes(turned.affine) == ("S", "P", "R")
    np.testing.assert_allclose(
        turned.spacing_mm, np.linalg.norm(turned.affine[:3, :3], axis=0), rtol=1e-6
    )
    for before, after in ((case.image[..., 0], turned.image[..., 0]), (case.mask, turned.mask)):
        np.testing.assert_allclose(position_mm(case, before), position_mm(turned, after), atol=1e-3)
        assert np.sort(before, axis=None).tolist() == np.sort(after, axis=None).tolist()


def test_reorientation_needs_an_affine():
    with pytest.raises(ValueError, match="ball has no affine"):
        reorient(replace(ball(RAS), affine=None))


@pytest.mark.parametrize("affine", [RAS, OBLIQUE])
@pytest.mark.parametrize("spacing", [0.8, 1.7, 2.0, 3.0])
def test_resampling_moves_nothing_and_keeps_volumes(affine, spacing):
    case = ball(affine)
    again = kdcore.resample(case, spacing)
    assert again.spacing_mm == (spacing,) * 3
    for before, after in ((case.image[..., 0], again.image[..., 0]), (case.mask, again.mask)):
        moved = position_mm(case, before) - position_mm(again, after)
        assert np.abs(moved).max() < 0.1 * spacing
    for label in (1, 2):
        before, after = (
            (c.mask == label).sum() * np.prod(c.spacing_mm) for c in (case, again)
        )  # mm³
        assert after == pytest.approx(before, rel=0.03 * spacing)


@pytest.mark.parametrize("spacing", [0.5, 1.0, 1.5, 3.0])
def test_a_ramp_stays_a_ramp(spacing):
    slope = np.array([1.0, -2.0, 0.5])
    image = np.tensordot(slope, np.indices((30, 32, 34)), 1)  # mm
    again = kdcore.resample(
        kdcore.Case("ramp", image[..., None], None, (1,) * 3, affine=RAS), spacing
    )
    index = np.indices(again.image.shape[:3]).reshape(3, -1)
    position = again.affine[:3, :3] @ index + again.affine[:3, 3:]
    inside = np.all((position > 5) & (position < 24), axis=0)
    np.testing.assert_allclose(again.image.ravel()[inside], (slope @ position)[inside], atol=1e-3)


@pytest.mark.parametrize("affine", [RAS, OBLIQUE])
def test_voxels_need_not_be_cubes(affine):
    case = ball(affine)
    again = kdcore.resample(case, (4.0, 1.0, 2.0))
    assert again.spacing_mm == (4.0, 1.0, 2.0)
    np.testing.assert_allclose(np.linalg.norm(again.affine[:3, :3], axis=0), (4, 1, 2))
    moved = position_mm(case, case.image[..., 0]) - position_mm(again, again.image[..., 0])
    assert np.abs(moved).max() < 0.2
    cubes, thrice = kdcore.resample(case, 2.0), kdcore.resample(case, (2, 2, 2))
    np.testing.assert_array_equal(cubes.mask, thrice.mask)


@pytest.mark.parametrize("affine", [RAS, OBLIQUE])
def test_resizing_moves_nothing_and_leaves_slices_alone(affine):
    case = ball(affine)
    height, width = case.mask.shape[1:]
    again = resize(case, (height // 2, 2 * width))
    assert again.image.shape == (len(case.mask), height // 2, 2 * width, 1)
    factor = np.array([1, height / (height // 2), 0.5])
    np.testing.assert_allclose(again.spacing_mm, np.array(case.spacing_mm) * factor)
    for before, after in ((case.image[..., 0], again.image[..., 0]), (case.mask, again.mask)):
        moved = position_mm(case, before) - position_mm(again, after)
        assert np.abs(moved).max() < 0.15 * max(again.spacing_mm)
    for label in (1, 2):
        slices = [(c.mask == label).sum(axis=(1, 2)) for c in (case, again)]
        np.testing.assert_array_equal(slices[0] > 0, slices[1] > 0)


def test_resizing_needs_no_voxel_size_and_keeps_the_same_size():
    case = replace(ball(RAS), spacing_mm=(float("nan"),) * 3, affine=None)
    again = resize(case, case.mask.shape[1:])
    np.testing.assert_array_equal(again.image, case.image)
    np.testing.assert_array_equal(again.mask, case.mask)
    assert not again.has_spacing


@pytest.mark.parametrize("shape", [(8,), (8, 8, 8), (0, 8), (8.5, 8)])
def test_impossible_sizes_are_refused(shape):
    with pytest.raises(ValueError, match="shape must be .height, width."):
        resize(ball(RAS), shape)


def test_the_same_spacing_changes_nothing():
    case = ball(RAS)
    again = kdcore.resample(case, 1.0)
    np.testing.assert_array_equal(again.image, case.image)
    np.testing.assert_array_equal(again.mask, case.mask)
    np.testing.assert_array_equal(again.affine, case.affine)


def test_finer_detail_than_the_new_voxels_is_averaged(rng):
    noise = rng.normal(size=(32, 32, 32, 1))
    coarse = kdcore.resample(kdcore.Case("noise", noise, None, (1,) * 3), 4.0)
    assert coarse.affine is None and coarse.image.shape == (8, 8, 8, 1)
    assert coarse.image.std() < 0.15  # single voxels would have 1, linear between two 0.35


def test_one_voxel_is_the_least():
    assert kdcore.resample(ball(RAS), 500.0).image.shape == (1, 1, 1, 1)


@pytest.mark.parametrize("spacing", [0, -1.0, np.nan, np.inf, (1.0, 2.0)])
def test_impossible_spacing(spacing):
    with pytest.raises(ValueError, match="spacing_mm must be one size > 0 mm, or three. Received"):
        kdcore.resample(ball(RAS), spacing)


def test_lengths_that_no_machine_could_hold():
    case = replace(make_case(0), spacing_mm=(1000.0, 1000.0, 1000.0), affine=None)
    with pytest.raises(ValueError, match="case_000: at .* mm it would have .* are these lengths"):
        kdcore.resample(case, 1.0)
