"""Reading: what is right is read whole, what is wrong is named."""

import gzip
import json
import shutil
import tracemalloc
from unittest import mock

import numpy as np
import pytest
from conftest import make_case, write_msd, write_nifti

import kdcore
from kdcore.data.nifti import case_id_of, read_nifti

IMAGE = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
MASK = (IMAGE > 60).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    return write_msd(tmp_path / "Task", 2)


def description(folder, **changes):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_reads_what_was_written(folder):
    cases = kdcore.read_msd(folder)
    assert [case.case_id for case in cases] == ["case_000", "case_001"]
    for index, case in enumerate(cases):
        expected = make_case(index)
        np.testing.assert_array_equal(case.image, expected.image)
        np.testing.assert_array_equal(case.mask, expected.mask)
        assert case.image.dtype == np.float32 and case.mask.dtype == np.uint8
        assert case.spacing_mm == (1.0, 1.0, 1.0) and case.sequences == ("MRI",)


def test_spacing_in_mm_and_array_order(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE, np.diag([0.5, 1.0, 3.0, 1.0]))
    assert kdcore.read_case(path).spacing_mm == (0.5, 1.0, 3.0)


def test_a_size_that_is_not_known_is_said_so():
    case = kdcore.Case("a", IMAGE[..., None], None, kdcore.data.cases.UNKNOWN_SPACING)
    assert not case.has_spacing and kdcore.Case("a", IMAGE[..., None], None, (1, 1, 1)).has_spacing
    for spacing in ((np.nan, 1, 1), (np.nan,) * 2, (0, 1, 1), (np.inf,) * 3, ()):
        with pytest.raises(ValueError, match="3 sizes > 0 mm, or UNKNOWN_SPACING. Received"):
            kdcore.Case("a", IMAGE[..., None], None, spacing)


def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def moved(size, voxels):
    affine = np.diag([size, size, size, 1.0])
    affine[0, 3] += size * voxels
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "of_mask", "apart"),
    [
        ((4, 5, 6), moved(1.0, 0), moved(1.0, 0.01), 0),  # a hundredth of a millimetre
        ((4, 5, 6), moved(0.0005, 0), moved(0.0005, 0.01), 0),
        ((4, 5, 6), moved(0.0005, 0), moved(0.0005, 2), 2),  # a micrometre
        ((4, 5, 6), moved(1.0, 0), moved(1.0, 0.5), 0.5),
        ((4, 5, 6), moved(1.0, 0), turned(0.1), 0),
        ((200, 1, 1), moved(1.0, 0), turned(0.1), 0.35),  # 199.5 · sin(0.1°)
        ((4, 5, 6), moved(1.0, 0), np.diag([1.0, 1.0, -1.0, 1.0]), 11),
    ],
)
def test_grids_are_compared_in_voxels_at_their_corners(tmp_path, shape, affine, of_mask, apart):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    path = write_nifti(tmp_path / "a.nii.gz", image, affine)
    mask = write_nifti(tmp_path / "m.nii.gz", (image > 9).astype(np.uint8), of_mask)
    if not apart:
        assert kdcore.read_case(path, mask).mask.any()
    else:
        with pytest.raises(ValueError, match=f"different affines, .* up to {apart:.2g} voxels"):
            kdcore.read_case(path, mask)


def test_scaled_integers_are_scaled(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(IMAGE.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(2.0, 5.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    voxels, _, _ = read_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(voxels, 2.0 * IMAGE + 5.0)


def test_test_images_have_no_mask(folder):
    write_nifti(folder / "imagesTs" / "case_900.nii.gz", IMAGE)
    description(folder, test=["./imagesTs/case_900.nii.gz"])
    cases = kdcore.read_msd(folder)
    assert [case.mask is None for case in cases] == [False, False, True]


def test_apple_double_files_are_ignored(folder):
    for name in ("imagesTr", "labelsTr"):
        (folder / name / "._case_000.nii.gz").write_bytes(b"not an image")
    assert len(kdcore.read_msd(folder)) == 2


def test_several_sequences(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", np.stack([IMAGE, -IMAGE], axis=-1))
    case = kdcore.read_case(path, sequences=("T1", "T2"))
    assert case.image.shape == (4, 5, 6, 2) and case.sequences == ("T1", "T2")
    with pytest.raises(ValueError, match="a.nii.gz has shape"):
        kdcore.read_case(path)


def test_unlisted_images_are_pointed_out(folder):
    write_nifti(folder / "imagesTr" / "extra.nii.gz", IMAGE)
    with pytest.warns(UserWarning, match="extra.nii.gz"):
        kdcore.read_msd(folder)


def test_a_case_cannot_be_changed():
    case = make_case(0)
    with pytest.raises(ValueError, match="read-only"):
        case.image[0] = 0
    with pytest.raises(AttributeError):
        case.case_id = "other"
    image = IMAGE[..., None].copy()
    case = kdcore.Case("a", image, None, (1, 1, 1))
    image[:] = 0
    assert case.image.any()


def test_a_mask_is_written_on_the_grid_of_its_case(tmp_path):
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    case = kdcore.read_case(write_nifti(tmp_path / "a.nii.gz", IMAGE, affine))
    path = kdcore.save_mask(tmp_path / "mask.nii.gz", MASK, case)
    voxels, spacing, again = read_nifti(path)
    np.testing.assert_array_equal(voxels, MASK)
    np.testing.assert_array_equal(again, affine)
    assert spacing == (2.0, 2.0, 2.0)


def test_case_id():
    assert case_id_of("x/hippocampus_001.nii.gz") == "hippocampus_001"
    assert case_id_of("a.b.nii") == "a.b"


# --- bad input: the message names the file ----------------------------------------------


def test_truncated_gzip(folder):
    path = folder / "imagesTr" / "case_001.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"case_001.nii.gz is no readable NIfTI"):
        kdcore.read_msd(folder)


def test_damaged_gzip_is_never_read_as_other_voxels(folder):
    path = folder / "imagesTr" / "case_001.nii.gz"
    content = path.read_bytes()
    for position in np.linspace(20, len(content) - 1, 25).astype(int):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 8]) + content[position + 1 :]
        )
        with pytest.raises(ValueError, match="case_001.nii.gz is no readable NIfTI"):
            kdcore.read_msd(folder)
    path.write_bytes(content[:-1])  # all voxels are there, the checksum is not
    with pytest.raises(ValueError, match="case_001.nii.gz is no readable NIfTI"):
        kdcore.read_msd(folder)


@pytest.mark.parametrize(
    "content",
    [b"hello, I am text", gzip.compress(b"text in gzip"), b""],
    ids=["text", "packed", "empty"],  # a packed text holds the time, so that workers would differ
)
def test_text_named_nifti(folder, content):
    (folder / "labelsTr" / "case_000.nii.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"labelsTr/case_000.nii.gz is no readable NIfTI"):
        kdcore.read_msd(folder)


def test_missing_mask_and_image(folder):
    (folder / "labelsTr" / "case_001.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="case_001.nii.gz has no mask"):
        kdcore.read_msd(folder)
    (folder / "imagesTr" / "case_000.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match="imagesTr/case_000.nii.gz does not exist"):
        kdcore.read_msd(folder)


def test_mask_of_another_shape(folder):
    write_nifti(folder / "labelsTr" / "case_000.nii.gz", MASK)
    with pytest.raises(ValueError, match="labelsTr/case_000.nii.gz has shape"):
        kdcore.read_msd(folder)


def test_mask_of_another_affine(folder):
    mask = make_case(0).mask
    write_nifti(folder / "labelsTr" / "case_000.nii.gz", mask, np.diag([1.0, 1.0, 2.0, 1.0]))
    with pytest.raises(ValueError, match="case_000.nii.gz have different affines"):
        kdcore.read_msd(folder)


def test_float_labels(folder):
    path = folder / "labelsTr" / "case_000.nii.gz"
    write_nifti(path, make_case(0).mask.astype(np.float32) * 0.5)
    with pytest.raises(ValueError, match="case_000.nii.gz: labels such as 0.5"):
        kdcore.read_msd(folder)
    write_nifti(path, make_case(0).mask.astype(np.float32))  # whole numbers are fine
    kdcore.read_msd(folder)


def test_a_label_the_dataset_does_not_name(folder):
    mask = make_case(0).mask.copy()
    mask[0, 0, 0] = 7
    write_nifti(folder / "labelsTr" / "case_000.nii.gz", mask)
    with pytest.raises(ValueError, match=r"case_000.nii.gz holds the labels \[7\]"):
        kdcore.read_msd(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_voxels_that_are_no_numbers(tmp_path, value):
    image = IMAGE.copy()
    image[0, 0, 0] = value
    with pytest.raises(ValueError, match="a.nii.gz.*1 voxels are NaN or infinite"):
        kdcore.read_case(write_nifti(tmp_path / "a.nii.gz", image))


def test_constant_image(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", np.full((4, 4, 4), 3.0, np.float32))
    with pytest.raises(ValueError, match="a.nii.gz: every voxel is 3.0"):
        kdcore.read_case(path)


@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6, 2), (4, 5, 6, 1, 2)])
def test_wrong_number_of_axes(tmp_path, shape):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    with pytest.raises(ValueError, match="a.nii.gz has shape"):
        kdcore.read_case(write_nifti(tmp_path / "a.nii.gz", array))


def test_empty_folder_and_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="dataset.json does not exist"):
        kdcore.read_msd(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        kdcore.read_msd(tmp_path / "nothing")


def test_no_read_permission(tmp_path, monkeypatch):
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE)
    real_open = open

    def refuse(name, *args, **kwargs):  # chmod does not stop root
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", str(name))
        return real_open(name, *args, **kwargs)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(PermissionError, match="a.nii.gz"):
        kdcore.read_case(path)


@pytest.mark.parametrize("text", ['{"training": [', "[]", '{"training": 3}'])
def test_broken_dataset_json(folder, text):
    (folder / "dataset.json").write_text(text)
    with pytest.raises(ValueError, match="dataset.json"):
        kdcore.read_msd(folder)


@pytest.mark.parametrize("labels", [["background"], {"whole": [1, 2]}, {"a": "b"}, 3])
def test_labels_that_cannot_be_understood(folder, labels):
    description(folder, labels=labels)
    with pytest.raises(ValueError, match="dataset.json: `labels` must be"):
        kdcore.read_msd(folder)


def test_labels_either_way_round(folder):
    description(folder, labels={"background": 0, "Anterior": 1, "Posterior": "2"})
    assert len(kdcore.read_msd(folder)) == 2


def test_dataset_json_cannot_point_outside(folder, tmp_path):
    shutil.copy(folder / "imagesTr" / "case_000.nii.gz", tmp_path / "secret.nii.gz")
    description(folder, training=[{"image": "../secret.nii.gz"}])
    with pytest.raises(ValueError, match="points out of its folder"):
        kdcore.read_msd(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": IMAGE}, "Expected \\(D, H, W, sequences\\)"),
        ({"mask": MASK[1:]}, "mask of shape"),
        ({"mask": MASK - 2.5}, "not whole"),
        ({"spacing_mm": (1, 0, 1)}, "3 sizes > 0"),
        ({"sequences": ("T1", "T2")}, "1 sequences in the image, 2 names"),
        ({"sequences": "T"}, "sequences must be a tuple of names"),
        ({"spacing_mm": 1.0}, "spacing_mm of 3 sizes"),
        ({"affine": np.eye(3)}, r"affine must be \(4, 4\), finite"),
        ({"affine": np.diag([1.0, 0.0, 1.0, 1.0])}, "three directions apart"),
        ({"case_id": "../x"}, "must do as a file name"),
    ],
)
def test_impossible_cases_are_refused(changes, message):
    case = {"case_id": "a", "image": IMAGE[..., None], "mask": MASK, "spacing_mm": (1, 1, 1)}
    with pytest.raises(ValueError, match=message):
        kdcore.Case(**{**case, **changes})


# --- files that lie about themselves -------------------------------------------------------


def with_header(path, image=IMAGE, **fields):
    """A NIfTI file with these fields of the header changed afterwards."""
    import nibabel

    write_nifti(path, image)
    content = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(content[:348]))
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, "claims 35181150961663 voxels"),
        ({"dim": [3, 40, 50, 60, 1, 1, 1, 1]}, "claims 480352 bytes, but it holds 832"),
        ({"dim": [3, 1, 1, 1, 1, 1, 1, 1], "vox_offset": 0}, "begin at byte 0"),
        ({"xyzt_units": 1}, "its lengths are in meter; expected mm"),
        ({"pixdim": [1, 2, 1, 1, 1, 1, 1, 1]}, "contradicts itself: voxels of .1.0, 1.0, 1.0. mm"),
        ({"xyzt_units": 3}, "its lengths are in micron; expected mm. Save it"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "contradicts itself"),
        ({"qform_code": 1, "quatern_b": 1.01}, "quaternion's squares sum to 1.02, more than 1"),
    ],
)
def test_headers_that_lie(tmp_path, fields, message):
    with pytest.raises(ValueError, match=f"a.nii.*{message}"):
        kdcore.read_case(with_header(tmp_path / "a.nii", **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"xyzt_units": 0},  # nobody says
        {"xyzt_units": 2 | 0b111000},  # mm, and no unit of time
        {"qform_code": 1, "sform_code": 0, "quatern_b": 1.0000002},  # rounded
    ],
)
def test_headers_that_are_a_little_odd(tmp_path, fields):
    case = kdcore.read_case(with_header(tmp_path / "a.nii", **fields))
    np.testing.assert_array_equal(case.image[..., 0], IMAGE)
    assert case.spacing_mm == (1.0, 1.0, 1.0)
    np.testing.assert_allclose(np.abs(case.affine), np.eye(4), atol=1e-5)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_zeros_after_the_voxels(tmp_path, ending):
    """As programs leave that write whole blocks; anything else there is not theirs."""
    content = write_nifti(tmp_path / "a.nii", IMAGE).read_bytes()
    path, pack = tmp_path / f"b{ending}", gzip.compress if ending == ".nii.gz" else bytes
    path.write_bytes(pack(content + bytes(4096)))
    np.testing.assert_array_equal(kdcore.read_case(path).image[..., 0], IMAGE)
    for more in (bytes(4096) + b"x", bytes(2**21)):
        path.write_bytes(pack(content + more))
        with pytest.raises(ValueError, match="claims 832 bytes, but it holds"):
            kdcore.read_case(path)


def test_files_of_another_kind_are_told_apart(tmp_path):
    import nibabel

    nibabel.save(nibabel.Nifti1Pair(IMAGE, np.eye(4)), tmp_path / "pair.img")
    for ending in (".img", ".hdr"):
        with pytest.raises(ValueError, match="is one of a pair, .hdr and .img. Save it as one"):
            kdcore.read_case(tmp_path / f"pair{ending}")
    write_nifti(tmp_path / "x.nii" / "scan.nii", IMAGE)
    with pytest.raises(IsADirectoryError, match=r"x.nii is a folder. .* it holds \['scan.nii'\]"):
        kdcore.read_case(tmp_path / "x.nii")


def test_a_gzip_file_without_end(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE)
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 22)) * 4096)  # 16 GB
    with pytest.raises(ValueError, match="a.nii.gz is no readable NIfTI file: .* or more"):
        kdcore.read_case(path)


def test_an_image_with_another_cases_mask(folder):
    entry = {"image": "./imagesTr/case_000.nii.gz", "label": "./labelsTr/case_001.nii.gz"}
    training = json.loads((folder / "dataset.json").read_text())["training"]
    description(folder, training=[entry, training[1]])
    with pytest.raises(ValueError, match="gives case_000.nii.gz the mask case_001"):
        kdcore.read_msd(folder)


def test_a_mask_in_the_place_of_its_image(folder):
    shutil.copy(folder / "labelsTr" / "case_000.nii.gz", folder / "imagesTr" / "case_000.nii.gz")
    with pytest.raises(ValueError, match="imagesTr/case_000.nii.gz holds what its mask holds"):
        kdcore.read_msd(folder)


@pytest.mark.parametrize("key", ["lable", "labels"])
def test_a_misspelt_label_is_no_unlabelled_case(folder, key):
    description(folder, training=[{"image": "./imagesTr/case_000.nii.gz", key: "./labelsTr/x"}])
    with pytest.raises(ValueError, match="dataset.json: unexpected entry"):
        kdcore.read_msd(folder)


@pytest.mark.parametrize("image", ["x" * 5000, "a\0b", ""])
def test_impossible_names(folder, image):
    description(folder, training=[{"image": image}])
    with pytest.raises((ValueError, FileNotFoundError), match="dataset.json"):
        kdcore.read_msd(folder)


@pytest.mark.parametrize("changes", [{"test": 5}, {"labels": {"a": 1e999}}, {"modality": [1e999]}])
def test_values_that_cannot_be(folder, changes):
    description(folder, **changes)
    with pytest.raises(ValueError, match="dataset.json"):
        kdcore.read_msd(folder)


def with_entry(folder, **entry):
    description = json.loads((folder / "dataset.json").read_text())
    description["training"][0] |= entry
    (folder / "dataset.json").write_text(json.dumps(description))


def test_paths_as_windows_writes_them(folder):
    before = kdcore.read_msd(folder)
    with_entry(folder, image=".\\imagesTr\\case_000.nii.gz", label=".\\labelsTr\\case_000.nii.gz")
    for a, b in zip(before, kdcore.read_msd(folder), strict=True):
        np.testing.assert_array_equal(a.image, b.image)
    with_entry(folder, image="..\\..\\elsewhere.nii.gz")
    with pytest.raises(ValueError, match="points out of its folder"):
        kdcore.read_msd(folder)


def test_voxels_that_nobody_labelled(tmp_path, rng):
    mask = rng.integers(-1, 3, (4, 5, 6)).astype(np.int16)
    paths = [
        write_nifti(tmp_path / f"{name}.nii.gz", voxels)
        for name, voxels in (("image", rng.normal(size=mask.shape)), ("mask", mask))
    ]
    case = kdcore.read_case(*paths)
    assert case.mask.dtype == np.int16
    np.testing.assert_array_equal(case.mask, mask)
    same = kdcore.data.relabel(case, {2: 255})
    np.testing.assert_array_equal(kdcore.data.relabel(same, {255: 2}).mask, mask)
    path = kdcore.save_mask(tmp_path / "again.nii.gz", case.mask, case)
    np.testing.assert_array_equal(read_nifti(path)[0], mask)
    assert set(np.unique(kdcore.data.resize(case, (10, 12)).mask)) == {-1, 0, 1, 2}
    with pytest.raises(ValueError, match="labels run from -2"):
        kdcore.data.relabel(case, {1: -2})


def test_relabelling_needs_a_mask(rng):
    case = kdcore.Case("a", rng.normal(size=(4, 5, 6, 1)), None, (1,) * 3)
    with pytest.raises(ValueError, match="a has no mask"):
        kdcore.data.relabel(case, {1: 2})


@pytest.mark.parametrize("axes", [(), (1,), (1, 1)])
def test_axes_of_size_1_do_not_matter(tmp_path, axes, rng):
    image, mask = rng.normal(size=(4, 5, 6)), rng.integers(0, 2, (4, 5, 6)).astype(np.uint8)
    paths = [
        write_nifti(tmp_path / f"{name}.nii.gz", voxels.reshape(4, 5, 6, *axes))
        for name, voxels in (("image", image), ("mask", mask))
    ]
    case = kdcore.read_case(*paths)
    np.testing.assert_allclose(case.image[..., 0], image, rtol=1e-6)
    np.testing.assert_array_equal(case.mask, mask)


def test_the_vectors_of_itk_are_sequences(tmp_path, rng):
    image = rng.normal(size=(4, 5, 6, 1, 2))
    path = write_nifti(tmp_path / "v.nii.gz", image)
    case = kdcore.read_case(path, sequences=("T1", "T2"))
    np.testing.assert_allclose(case.image, image[:, :, :, 0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"has shape .*Expected a 3-D scan"):
        kdcore.read_case(path, sequences=("T1",))


def test_labels_that_a_slope_made_0_9999(tmp_path, rng):
    labels = rng.integers(0, 4, (4, 5, 6))
    image = write_nifti(tmp_path / "image.nii.gz", rng.normal(size=labels.shape))
    for error, readable in ((2e-4, True), (2e-3, False)):
        mask = write_nifti(tmp_path / "mask.nii.gz", (labels * (1 - error)).astype(np.float32))
        if readable:
            np.testing.assert_array_equal(kdcore.read_case(image, mask).mask, labels)
        else:
            with pytest.raises(ValueError, match="not whole numbers"):
                kdcore.read_case(image, mask)


@pytest.mark.parametrize("name", ["\ud800.nii.gz", "./imagesTr/circle.nii.gz", "a" * 5000])
def test_names_that_cannot_be(folder, name):
    (folder / "imagesTr" / "circle.nii.gz").symlink_to("circle.nii.gz")
    with_entry(folder, image=name)
    with pytest.raises((ValueError, OSError), match="dataset.json"):
        kdcore.read_msd(folder)


def test_a_case_does_not_lose_its_mask_in_silence(folder):
    with_entry(folder, label="")
    with pytest.raises(ValueError, match="dataset.json has an entry without a file name"):
        kdcore.read_msd(folder)


def test_bytes_before_the_voxels_are_not_read_without_end(tmp_path):
    """An extension that claims, and a gzip file that holds, far more than any header needs."""
    path = write_nifti(tmp_path / "x.nii.gz", np.ones((4, 4, 4), np.float32))
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[108:112] = np.float32(2**28).tobytes()  # where the voxels begin
    content[348] = 1  # there are extensions
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(bytes(content))
        for _ in range(64):
            file.write(bytes(2**20))
    with pytest.raises(ValueError, match="x.nii.gz .*voxels begin at byte 268435456; expected"):
        kdcore.read_case(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_each_byte_is_read_once(tmp_path, monkeypatch, ending):
    """Counted at the file, beneath gzip: what is checked is what is used."""
    path = write_nifti(tmp_path / f"a{ending}", np.random.default_rng(0).normal(size=(40, 50, 60)))
    expected, seen, real_open = read_nifti(path)[0], [], open

    def counting(name, *args, **kwargs):
        file = real_open(name, *args, **kwargs)
        if str(name) == str(path):
            real_read = file.read
            counted = mock.MagicMock(wraps=file, name="file")
            counted.__enter__.return_value = counted
            counted.read.side_effect = lambda size=-1: _counted(real_read(size), seen)
            return counted
        return file

    monkeypatch.setattr("builtins.open", counting)
    np.testing.assert_array_equal(read_nifti(path)[0], expected)
    first = 132  # once more, to see what kind of file it is
    assert sum(seen) == first + path.stat().st_size


def _counted(block, seen):
    seen.append(len(block))
    return block


def test_trailing_rubbish_and_a_wrong_checksum_are_refused(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", IMAGE)
    whole = path.read_bytes()
    for damaged in (whole + b"rubbish", whole[:-8] + bytes(4) + whole[-4:], whole[:-4]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="a.nii.gz is no readable NIfTI file"):
            kdcore.read_case(path)


def test_what_a_header_claims_is_not_allocated(tmp_path):
    """A small packed file that claims 4 GB of voxels costs what it holds."""
    path = with_header(tmp_path / "a.nii", dim=[3, 512, 1024, 1024, 1, 1, 1, 1])
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(path.read_bytes() + bytes(1 << 22)))
    tracemalloc.start()
    with pytest.raises(ValueError, match="claims 2147484000 bytes, but it holds"):
        kdcore.read_case(packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * (1 << 22)
