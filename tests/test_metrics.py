import dataclasses

import keras
import numpy as np
import pytest
from conftest import make_case
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import approx

import kdcore
from kdcore.data.splits import LeakageError
from kdcore.evaluation.metrics import (
    agreement,
    calibration,
    evaluate_case,
    evaluate_with_calibration,
    mean_dice,
)


def test_dice_by_hand():
    a, b = np.array([1, 1, 1, 0, 2]), np.array([1, 1, 0, 1, 0])
    assert kdcore.dice(a, b, 1) == approx(2 * 2 / (3 + 3))


def test_dice_of_empty_masks():
    a, b = np.array([0, 1]), np.array([0, 0])
    assert kdcore.dice(a, b, 1) == kdcore.dice(b, a, 1) == 0.0
    assert np.isnan(kdcore.dice(b, b, 1))
    with pytest.raises(ValueError, match="Masks of one shape"):
        kdcore.dice(a, np.zeros((2, 2)), 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31))
def test_dice_is_symmetric_and_bounded(seed):
    a, b = np.random.default_rng(seed).integers(0, 3, (2, 4, 4, 4))
    for label in (1, 2):
        value = kdcore.dice(a, b, label)
        assert 0 <= value <= 1 and value == kdcore.dice(b, a, label)
        assert kdcore.dice(a, a, label) == 1


def ball(radius_mm, spacing_mm, size=(40, 40, 40)):
    grid = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).astype(float)
    scale = np.array(spacing_mm).reshape(3, 1, 1, 1)
    center = (np.array(size) - 1).reshape(3, 1, 1, 1) * scale / 2
    return (((grid * scale - center) ** 2).sum(axis=0) < radius_mm**2).astype(np.uint8)


def test_equal_masks_are_at_distance_zero():
    mask = ball(6, (1, 1, 1), (16, 16, 16))
    assert kdcore.surface_distances(mask, mask, 1, (1, 1, 1)) == approx((1, 0), abs=1e-6)


def test_balls_of_other_radius_are_that_far_apart_in_mm():
    for spacing, size in (((1, 1, 1), (40,) * 3), ((2, 1, 1), (20, 40, 40))):
        small, large = ball(10, spacing, size), ball(13, spacing, size)
        surface_dice, hd95 = kdcore.surface_distances(small, large, 1, spacing)
        assert hd95 == approx(3, abs=0.5) and surface_dice < 0.05
        near, _ = kdcore.surface_distances(small, ball(10.4, spacing, size), 1, spacing)
        assert near > 0.95


def test_a_cube_moved_by_two_voxels():
    a, b = np.zeros((2, 16, 16, 16), np.uint8)
    a[4:12, 4:12, 4:12] = b[6:14, 4:12, 4:12] = 1
    surface_dice, hd95 = kdcore.surface_distances(a, b, 1, (1, 1, 1))
    assert hd95 == approx(2, abs=0.3)
    assert 0.5 < surface_dice < 0.8  # the four sides slide along themselves, the ends do not


def test_masks_at_the_border_of_the_array():
    mask = np.ones((6, 6, 6), np.uint8)
    assert kdcore.surface_distances(mask, mask, 1, (1, 1, 1)) == approx((1, 0), abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_single_slice_has_a_contour_and_no_flat_faces(axis):
    """Of a square of 16, moved by 4, the sides along the move lie 12 of 16 mm on each other, and
    about 1 mm more is within 1 mm of a corner: 2 · (12 + 2) of 64 mm."""
    a, b = np.zeros((2, 1, 32, 32), np.uint8)
    a[0, 8:24, 8:24] = b[0, 12:28, 8:24] = 1
    a, b = np.moveaxis(a, 0, axis), np.moveaxis(b, 0, axis)
    surface_dice, hd95 = kdcore.surface_distances(a, b, 1, (1.0, 1.0, 1.0))
    assert surface_dice == approx(28 / 64, abs=0.01) and hd95 == approx(4, abs=0.01)


def test_a_single_slice_is_measured_with_its_own_edges():
    a, b = np.zeros((2, 12, 1, 12), np.uint8)
    a[2:6, 0, 2:10] = b[4:8, 0, 2:10] = 1  # moved by two voxels of 3 mm
    assert kdcore.surface_distances(a, b, 1, (3.0, 50.0, 1.0))[1] == approx(6, abs=0.05)
    two_d = kdcore.surface_distances(a[:, 0], b[:, 0], 1, (3.0, 1.0))
    assert two_d == kdcore.surface_distances(a, b, 1, (3.0, 50.0, 1.0))


def test_surface_of_empty_masks():
    some, none = ball(3, (1, 1, 1), (10,) * 3), np.zeros((10,) * 3, np.uint8)
    one_empty = kdcore.surface_distances(some, none, 1, (1, 1, 1))
    assert one_empty[0] == 0 and np.isnan(one_empty[1])
    assert np.isnan(kdcore.surface_distances(none, none, 1, (1, 1, 1))).all()


def test_calibration_by_hand():
    # Confidences 0.8 (right), 0.8 (wrong), 0.6 (right): the bins at 0.8 and 0.6 are off by
    # |1/2 − 0.8| · 2/3 + |1 − 0.6| · 1/3 = 1/3
    p = np.array([[0.2, 0.8], [0.2, 0.8], [0.6, 0.4]]).reshape(1, 1, 3, 2)
    report = kdcore.calibration(np.array([1, 0, 0]).reshape(1, 1, 3), p)
    assert report["ece"] == approx(1 / 3)
    assert report["brier"] == approx((0.08 + 1.28 + 0.32) / 3)
    assert report["nll"] == approx(-(np.log(0.8) + np.log(0.2) + np.log(0.6)) / 3)


def perfect(shape=(None, None), noise=0.0):
    """Logits from an image that is its own mask."""
    inputs = keras.Input((*shape, 1))
    z = keras.layers.Concatenate()([-((inputs - k) ** 2) * 50 for k in range(3)])
    return keras.Model(inputs, z)


def test_evaluate_restacks_slices_to_3d(cases):
    seen = [kdcore.Case(c.case_id, c.mask[..., None], c.mask, (1, 1, 1)) for c in cases[:2]]
    results = kdcore.evaluate(perfect(), seen, normalization=None)
    assert sorted(results) == ["case_000", "case_001"]
    for entry in results.values():
        for label in ("1", "2"):
            assert entry[label]["dice"] == 1.0
            assert entry[label]["surface_dice_1mm"] == approx(1)
            assert entry[label]["hd95_mm"] == approx(0, abs=1e-6)
        assert set(entry) == {"1", "2"}
    for case in seen:  # a voxel has 1 mm³
        ones = (case.mask == 1).sum()
        assert results[case.case_id]["1"]["volume_ml"] == approx(ones / 1000) and ones
    scores, beliefs = evaluate_with_calibration(perfect(), seen, normalization=None)
    assert scores == results and mean_dice(scores) == 1.0
    assert all(case["ece"] < 0.01 for case in beliefs.values())


def test_evaluate_is_read_only(cases):
    model = kdcore.unet((None, None, 1), 3, filters=2, depth=1)
    before = [w.copy() for w in model.get_weights()]
    kdcore.evaluate(model, cases[:1])
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def test_voxels_that_nobody_labelled_count_in_no_score():
    """A false find and a miss where the mask is -1 change nothing."""
    reference = np.zeros((1, 4, 4), np.int16)
    reference[0, 0, :2] = 1
    reference[0, 2:] = -1
    p = np.zeros((1, 4, 4, 2), np.float32)
    said = np.array([[1, 0, 0, 0], [0] * 4, [1] * 4, [0] * 4])
    p[0, ..., 1], p[0, ..., 0] = said * 0.9, 1 - said * 0.9
    case = kdcore.Case("a", np.ones((1, 4, 4, 1)), reference, (1,) * 3)
    assert evaluate_case(case, p)["1"]["dice"] == pytest.approx(2 / 3)
    nobody = dataclasses.replace(case, mask=np.full_like(reference, -1))
    with pytest.raises(ValueError, match="no voxel of its mask has a label"):
        evaluate_case(nobody, p)


def test_evaluate_refuses(cases):
    model = perfect()
    with pytest.raises(ValueError, match="case_001 has no mask"):
        kdcore.evaluate(model, [make_case(1, labelled=False)])
    split = kdcore.split_cases(cases, 3, 1, 1)
    with pytest.raises(LeakageError, match="evaluate may use test cases only"):
        kdcore.evaluate(model, split.take(cases, "labelled"), split=split)
    two_classes = keras.Model(model.input, keras.layers.Conv2D(2, 1)(model.input))
    with pytest.raises(ValueError, match="holds label 2, but the network knows only 2"):
        kdcore.evaluate(two_classes, cases[:1])


def test_undefined_dice_is_left_out_of_means():
    entry = {"1": {"dice": float("nan")}, "2": {"dice": 0.5}}
    assert mean_dice({"x": entry, "y": {"1": {"dice": None}}}) == 0.5
    assert np.isnan(mean_dice({"y": {"1": {"dice": None}}}))


def test_a_healthy_case_with_a_false_find_is_left_out_of_the_mean():
    ill = {"1": {"dice": 0.4}, "2": {"dice": 0.8}}
    false_find = {"1": {"dice": 0.0}, "2": {"dice": 0.6}}
    scores = {"ill": ill, "healthy": false_find}
    assert mean_dice(scores) == pytest.approx(0.45)  # of 0.6 and 0.3
    assert mean_dice(scores, {"1": ["healthy"]}) == pytest.approx(0.6)  # of 0.6 and 0.6
    assert mean_dice(scores, {"1": ["healthy"], "2": ["healthy"]}) == pytest.approx(
        0.6
    )  # ill alone


def test_foreground_dice_metric(rng):
    mask, logits = rng.integers(0, 3, (4, 6, 6)), rng.normal(size=(4, 6, 6, 3))
    mask[0] = -1
    metric = kdcore.ForegroundDice(3)
    for part in (slice(0, 2), slice(2, 4)):
        metric.update_state(mask[part], logits[part])
    prediction = np.where(mask == -1, -1, logits.argmax(-1))
    expected = np.mean([kdcore.dice(mask, prediction, k) for k in (1, 2)])
    assert float(metric.result()) == approx(expected, rel=1e-5)


def test_agreement_by_hand():
    """One says background, 1, 1, 2; the other background, 1, 2, 2: both labels agree by 2/3."""
    inputs = keras.Input((2, 2, 3))
    says = keras.Model(inputs, keras.layers.Rescaling(9.0)(inputs))
    cases = []
    for labels in ([0, 1, 1, 2], [0, 1, 2, 2]):
        image = np.eye(3)[np.array(labels).reshape(1, 2, 2)]
        cases.append(kdcore.Case("a", image, None, (1, 1, 1), ("x", "y", "z")))
    assert agreement(says, cases[:1], says, cases[1:], None) == {"a": pytest.approx(2 / 3)}
    assert agreement(says, cases[:1], says, cases[:1], None) == {"a": 1.0}
    nothing = kdcore.Case(
        "b", np.eye(3)[np.zeros((1, 2, 2), int)], None, (1, 1, 1), ("x", "y", "z")
    )
    assert np.isnan(agreement(says, [nothing], says, [nothing], None)["b"])


def test_calibration_in_half_precision_is_finite():
    p = np.array([[[[1.0, 0.0], [0.25, 0.75]]]])
    reference = np.array([[[1, 1]]])
    whole, half = (calibration(reference, p.astype(t)) for t in ("float64", "float16"))
    assert half["nll"] == approx(whole["nll"], rel=1e-3) and half["brier"] == approx(whole["brier"])


@pytest.mark.parametrize(
    ("label", "factor", "message"),
    [
        (-1, 1.0, "Labels run from -1"),
        (255, 1.0, "Labels run .* 255"),
        (0, 2.0, "sum to 1"),
        (0, np.nan, "sum to 1"),
    ],
)
def test_calibration_of_what_cannot_be(label, factor, message):
    p = factor * np.full((1, 1, 2, 2), 0.5)
    with pytest.raises(ValueError, match=message):
        calibration(np.array([[[label, 0]]]), p)
