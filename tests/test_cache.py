"""Scans that stay on disk, and one case at a time where that is enough."""

import gc
import os
import weakref

import numpy as np
import pytest
from conftest import make_brain, make_case, write_brats, write_msd, write_nifti
from test_nnunet import describe

import kdcore
from kdcore.data import read_folder, read_nnunet


def same(a, b):
    assert np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)
    assert a.sequences == b.sequences
    np.testing.assert_equal(a.spacing_mm, b.spacing_mm)
    np.testing.assert_allclose(a.affine, b.affine)


def on_disk(case):
    arrays = [array for array in (case.image, case.mask) if array is not None]
    return all(isinstance(array, np.memmap) for array in arrays)


def nnunet(folder):
    labels = {"background": 0, "front": 1, "ignore": 2}
    describe(folder, labels=labels, numTraining=1, channel_names={"0": "T1"})
    case = make_case(0)
    write_nifti(folder / "imagesTr" / "a_0000.nii.gz", case.image[..., 0])
    write_nifti(folder / "labelsTr" / "a.nii.gz", case.mask)
    return folder


READERS = {
    "read_msd": lambda folder, **kw: kdcore.read_msd(write_msd(folder, 2), **kw),
    "read_nnunet": lambda folder, **kw: read_nnunet(nnunet(folder), **kw),
    "read_folder": lambda folder, **kw: read_folder(
        write_msd(folder, 2), "imagesTr/*.nii.gz", "labelsTr/*.nii.gz", **kw
    ),
    "read_brats": lambda folder, **kw: kdcore.read_brats(
        write_brats(folder, [make_brain(0)]), spacing_mm=2.0, sequences=["T1", "FLAIR"], **kw
    ),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_cases_of_a_cache_are_the_same_and_on_disk(tmp_path, read):
    plain = read(tmp_path / "data")
    kept = read(tmp_path / "data", cache=tmp_path / "cache")
    assert len(plain) == len(kept) > 0
    for a, b in zip(plain, kept, strict=True):
        same(a, b)
        assert on_disk(b) and not on_disk(a)


def test_files_are_unpacked_once_and_again_when_they_change(tmp_path):
    folder, cache = write_msd(tmp_path / "data", 1), tmp_path / "cache"
    [first] = kdcore.read_msd(folder, cache=cache)
    image = folder / "imagesTr" / "case_000.nii.gz"
    before, size = image.stat(), image.stat().st_size
    image.write_bytes(b"\0" * size)  # of the same size and date: is not looked into
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    [again] = kdcore.read_msd(folder, cache=cache)
    same(first, again)
    write_nifti(image, 2 * make_case(0).image[..., 0])
    [changed] = kdcore.read_msd(folder, cache=cache)
    np.testing.assert_allclose(changed.image, 2 * make_case(0).image, rtol=1e-6)
    [finer] = kdcore.read_msd(folder, labelled_only=True, cache=cache)
    same(changed, finer)


def test_a_scan_without_a_mask_or_a_known_size(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 16), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    for _ in range(2):
        [case] = read_folder(tmp_path, "images/*.png", cache=tmp_path / "cache")
        assert on_disk(case) and case.mask is None and not case.has_spacing
        assert np.array_equal(case.image[0, ..., 0], pixels)


class Counted:
    """Cases made one after the other; how many of them were alive whenever one was asked for."""

    def __init__(self, count):
        self.count, self.most, self._made = count, 0, []

    def __iter__(self):
        for index in range(self.count):
            case = make_case(index)
            self._made.append(weakref.ref(case))
            yield case
            del case
            gc.collect()
            self.most = max(self.most, sum(made() is not None for made in self._made))


@pytest.mark.job
def test_soft_targets_are_written_holding_one_case(tmp_path):
    def teacher(case):
        return np.full((*case.image.shape[:3], 3), 1 / 3, np.float32)

    teacher.digest = "v1"
    cases = Counted(5)
    soft = kdcore.SoftTargets.write(teacher, iter(cases), tmp_path)
    assert len(soft) == 5 and cases.most <= 2
    again = Counted(6)
    assert len(kdcore.SoftTargets.write(teacher, iter(again), tmp_path)) == 6 and again.most <= 2


def test_of_an_iterator_a_held_out_case_is_refused_when_it_comes(tmp_path):
    def teacher(case):
        return np.full((*case.image.shape[:3], 3), 1 / 3, np.float32)

    teacher.digest = "v1"
    split = kdcore.split_cases([make_case(i) for i in range(3)], 1, 1, 1)
    with pytest.raises(kdcore.LeakageError, match="labelled or unlabelled"):
        kdcore.SoftTargets.write(teacher, iter(Counted(3)), tmp_path, split=split)
    assert not {*split.validation, *split.test} & {path.stem for path in tmp_path.glob("*.npy")}


def test_new_answers_of_a_teacher_that_changed_do_not_stay(tmp_path):
    def teacher(case):
        return np.full((*case.image.shape[:3], 2), 0.5, np.float32)

    with pytest.warns(UserWarning, match="cannot be seen"):
        kdcore.SoftTargets.write(teacher, [make_case(1)], tmp_path)

    def changed(case):
        return np.broadcast_to(np.float32([0.9, 0.1]), (*case.image.shape[:3], 2))

    changed.__qualname__ = teacher.__qualname__
    with pytest.raises(ValueError, match="case_001 is answered otherwise now"):
        kdcore.SoftTargets.write(changed, iter([make_case(0), make_case(1)]), tmp_path)
    assert list(kdcore.SoftTargets.open(tmp_path)) == ["case_001"]
