import numpy as np
import pytest
from conftest import make_case
from pytest import approx

import kdcore
from kdcore.data.splits import LeakageError


def image(*values):
    return np.array(values, dtype=float).reshape(-1, 1)


def test_minmax_by_hand():
    out = kdcore.normalize(image(10, 20, 30), "minmax")
    np.testing.assert_allclose(out.ravel(), [0, 0.5, 1])
    assert out.dtype == np.float32


def test_zscore_by_hand():
    # mean 20, standard deviation sqrt(200/3)
    out = kdcore.normalize(image(10, 20, 30), "zscore")
    np.testing.assert_allclose(out.ravel(), np.array([-1, 0, 1]) * np.sqrt(1.5), rtol=1e-6)


def test_percentile_by_hand():
    # 0 … 1000: 0.5 % is 5, 99.5 % is 995, and what lies beyond is clipped
    out = kdcore.normalize(image(*range(1001)), "percentile").ravel()
    assert out[5] == 0 and out[995] == 1 and out[1000] == 1
    assert out[500] == approx(0.5)


@pytest.mark.parametrize("method", ["minmax", "zscore", "percentile"])
def test_unit_of_the_scanner_does_not_matter(method, rng):
    x = rng.normal(size=(4, 5, 6, 2))
    y = x * np.array([3.0, 1e6]) + np.array([7.0, -2e6])
    np.testing.assert_allclose(kdcore.normalize(x, method), kdcore.normalize(y, method), atol=1e-5)


@pytest.mark.parametrize("method", ["minmax", "zscore", "percentile"])
def test_constant_sequence_becomes_zeros(method, rng):
    x = np.stack([rng.normal(size=(3, 4, 5)), np.full((3, 4, 5), 0.1)], axis=-1)
    out = kdcore.normalize(x, method)
    assert np.isfinite(out).all() and not out[..., 1].any() and out[..., 0].any()


def test_nearly_constant_sequence_stays_finite():
    x = np.zeros((10, 10, 10, 1))
    x[0, 0, 0] = 5.0  # both percentiles are 0, so the whole range counts
    out = kdcore.normalize(x)
    assert np.isfinite(out).all() and out.max() == 1 and out.sum() == 1


def test_refusals():
    with pytest.raises(ValueError, match="method must be one of"):
        kdcore.normalize(image(1, 2), "max")
    with pytest.raises(ValueError, match="NaN"):
        kdcore.normalize(image(1, np.nan))


def test_fitted_minmax_uses_all_cases_and_divides_safely():
    cases = [make_case(i) for i in range(4)]
    split = kdcore.split_cases(cases, 2, 0, 0)
    fitted = kdcore.fit_minmax(cases, split)
    assert fitted.minimum[0] == min(c.image.min() for c in cases)
    assert fitted.maximum[0] == max(c.image.max() for c in cases)
    out = np.concatenate([fitted(c.image).ravel() for c in cases])
    assert out.min() == 0 and out.max() == approx(1)
    constant = type(fitted)((1.0,), (1.0,), ())
    assert not constant(np.ones((2, 2, 2, 1))).any()


@pytest.mark.parametrize("part", ["test", "validation"])
def test_fitting_on_held_out_cases_is_refused(part):
    cases = [make_case(i) for i in range(4)]
    split = kdcore.split_cases(cases, 2, 1, 1)
    with pytest.raises(LeakageError, match=f"in {part}"):
        kdcore.fit_minmax(split.take(cases, "labelled") + split.take(cases, part), split)
