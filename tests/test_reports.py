"""Faults that users of other libraries reported, tried here; `docs/design.md` lists the sources."""

import numpy as np
import pytest
from conftest import make_case, write_nifti

import kdcore
from kdcore.evaluation.metrics import evaluate_case

CASE = make_case(0)


def test_a_teacher_that_is_quite_sure_gives_a_finite_loss():
    sure = np.array([[[1e4, -1e4], [-1e4, 1e4]]], "float32")
    assert float(kdcore.kd_loss(sure, sure, 1.0)) == 0.0
    assert float(kdcore.kd_loss(sure, np.zeros_like(sure), 1.0)) == pytest.approx(np.log(2))
    assert np.isfinite(float(kdcore.kd_loss(sure, -sure, 4.0)))


def test_a_batch_in_which_nothing_counts_has_loss_0():
    logits = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    assert float(kdcore.kd_loss(logits, -logits, 2.0, np.zeros(2))) == 0.0
    assert float(kdcore.dice_cross_entropy(np.full((2, 5), -1), logits)) == 0.0


def test_the_soft_loss_does_not_grow_with_the_image_or_the_classes():
    rng = np.random.default_rng(0)
    t, s = rng.normal(size=(2, 1, 4, 4, 3)).astype("float32")
    one = float(kdcore.kd_loss(t, s, 3.0))
    tiled = [np.tile(z, (2, 3, 3, 1)) for z in (t, s)]
    assert float(kdcore.kd_loss(*tiled, 3.0)) == pytest.approx(one, rel=1e-5)
    absent = [np.concatenate([z, np.full((1, 4, 4, 5), -60.0, "float32")], -1) for z in (t, s)]
    assert float(kdcore.kd_loss(*absent, 3.0)) == pytest.approx(one, rel=1e-4)


def test_probabilities_in_place_of_log_probabilities_are_noticed():
    p = np.random.default_rng(0).dirichlet([1, 1, 1], (1, 6)).astype("float32")
    with pytest.raises(ValueError, match=r"student's values lie in \[0, 1\] and sum to 1"):
        kdcore.kd_loss(np.log(p), p, 1.0)


def test_dice_where_the_reference_is_empty():
    empty, full = np.zeros((2, 3, 3), np.uint8), np.ones((2, 3, 3), np.uint8)
    assert kdcore.dice(empty, full, 1) == 0.0  # a false find is not left out
    assert np.isnan(kdcore.dice(empty, empty, 1))
    scores = {"a": {"1": {"dice": 0.5}}, "b": {"1": {"dice": float("nan")}}}
    assert kdcore.mean_dice(scores) == 0.5


def test_masks_of_0_and_255_give_no_negative_dice():
    case = kdcore.Case("a", CASE.image, 255 * (CASE.mask > 0), CASE.spacing_mm)
    with pytest.raises(ValueError, match="label 255"):
        kdcore.Batches([case], (26, 20))[0]
    with pytest.raises(ValueError, match="knows only 2 classes"):
        evaluate_case(case, np.full((*CASE.mask.shape, 2), 0.5))


def test_origins_that_rounding_moved_are_one_place_and_others_are_not(tmp_path):
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -197.1123046875, -27.1123046875, -1114.0999755859375
    image = write_nifti(tmp_path / "image.nii.gz", CASE.image[..., 0], affine)
    near, far = affine.copy(), affine.copy()
    near[:3, 3] = -197.11260986328125, -27.112300872802734, -1114.0999755859375
    far[2, 3] += 4
    mask = write_nifti(tmp_path / "near.nii.gz", CASE.mask, near)
    assert np.array_equal(kdcore.read_case(image, mask).mask, CASE.mask)
    elsewhere = write_nifti(tmp_path / "far.nii.gz", CASE.mask, far)
    with pytest.raises(ValueError, match=r"different affines.* up to 1.3 voxels apart"):
        kdcore.read_case(image, elsewhere)


def test_labels_that_a_slope_rounded_are_whole(tmp_path):
    image = write_nifti(tmp_path / "image.nii.gz", CASE.image[..., 0])
    mask = write_nifti(tmp_path / "mask.nii.gz", CASE.mask * (1 - 2.5e-10))
    assert np.array_equal(kdcore.read_case(image, mask).mask, CASE.mask)


def test_maps_of_a_cropped_scan_are_refused_with_both_shapes(tmp_path):
    np.savez(tmp_path / "case_000.npz", softmax=np.full((3, 20, 22, 8), 1 / 3, np.float32))
    teacher = kdcore.NNUNetProbabilities(tmp_path)
    with pytest.raises(ValueError, match=r"\(3, 20, 22, 8\); expected .* here \(20, 26, 8\)"):
        teacher(CASE)


def test_where_labels_overlap_both_are_found():
    both = np.zeros((*CASE.mask.shape, 2), np.uint8)
    both[2:6, 4:14, 4:14, 0] = both[4:8, 8:20, 8:16, 1] = 1
    case = kdcore.Case("a", CASE.image, both, CASE.spacing_mm, regions=("left", "right"))
    scores = evaluate_case(case, both * 0.8 + 0.1)
    assert [scores[name]["dice"] for name in case.regions] == [1.0, 1.0]
    assert both.all(axis=-1).any()
