"""Paired comparison of two arms over the same cases."""

from collections.abc import Mapping
from typing import Any

import numpy as np

RESAMPLES = 10_000
MEAN = "mean"
"""Pseudo-label: the mean over a case's foreground labels."""


def compare(
    results: Mapping[str, Any],
    a: str,
    b: str,
    *,
    label: str = MEAN,
    metric: str = "dice",
    seed: int = 0,
) -> dict[str, Any]:
    """How much arm `a` is above arm `b`, case by case, seeds averaged for each case.

    Args:
        results: A results dict (or file's content): `arms[name]["per_case"][case_id][seed]
            [label][metric]`.
        a: Name of an arm.
        b: Name of the arm it is compared with.
        label: A foreground label, or "mean" for the mean over those that are defined.
        metric: "dice", "surface_dice_1mm" or "hd95_mm".
        seed: Of the resampling.

    Returns:
        `difference`: mean of a − b over cases. `interval`: its 95 % interval, from 10,000
        bootstrap resamples of the cases (percentile method). `p`: two-sided, from 10,000
        random flips of the differences' signs. `cases`, `seeds_a`, `seeds_b`, `undefined`
        (cases left out since the metric is defined for one arm or none), and `mean_a`,
        `mean_b` over the cases used. With one case, `interval` and `p` are None.

    Raises:
        ValueError: If an arm is unknown, or no case is defined in both.

    Reference: Efron and Tibshirani 1993, chapter 13; Nichols and Holmes 2002,
    https://doi.org/10.1002/hbm.1058
    """
    label = str(label)
    values = [per_case(results, arm, label, metric) for arm in (a, b)]
    ids = sorted(set(values[0]) & set(values[1]))
    pairs = np.array([[values[0][i], values[1][i]] for i in ids], dtype=float).reshape(-1, 2)
    defined = np.isfinite(pairs).all(axis=1)
    pairs = pairs[defined]
    if not len(pairs):
        raise ValueError(f"{a} and {b} have no case in common where {metric} is defined.")
    difference = pairs[:, 0] - pairs[:, 1]
    return {
        "a": a,
        "b": b,
        "label": label,
        "metric": metric,
        "difference": float(difference.mean()),
        "interval": bootstrap_interval(difference, seed),
        "p": sign_flip_p(difference, seed),
        "cases": len(pairs),
        "undefined": len(set(values[0]) | set(values[1])) - len(pairs),
        "seeds_a": _seeds(results, a),
        "seeds_b": _seeds(results, b),
        "mean_a": float(pairs[:, 0].mean()),
        "mean_b": float(pairs[:, 1].mean()),
    }


def per_case(
    results: Mapping[str, Any], arm: str, label: str = MEAN, metric: str = "dice"
) -> dict[str, float]:
    """Value of a metric for each case of an arm, averaged over seeds; NaN if undefined."""
    arms = results.get("arms", {})
    if arm not in arms:
        raise ValueError(f"There is no arm {arm!r}. There are: {sorted(arms)}.")
    return {
        case_id: _mean([_value(entry, label, metric) for entry in seeds.values()])
        for case_id, seeds in arms[arm]["per_case"].items()
    }


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> list[float] | None:
    """95 % percentile bootstrap interval of the mean; None for fewer than two values."""
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:
        return [float(values[0])] * 2
    from scipy import stats

    result = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def sign_flip_p(values: np.ndarray, seed: int = 0) -> float | None:
    """Two-sided p for a mean of zero by random sign flips; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy import stats

    result = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def _value(entry: Mapping[str, Any], label: str, metric: str) -> float:
    labels = list(entry) if label == MEAN else [label]
    if label != MEAN and label not in entry:
        raise ValueError(f"There is no label {label!r}. There are: {sorted(entry)}.")
    missing = [key for key in labels if metric not in entry[key]]
    if missing:
        known = sorted(entry[missing[0]])
        raise ValueError(f"There is no metric {metric!r}. There are: {known}.")
    return _mean([entry[key][metric] for key in labels])


def _mean(values: list[Any]) -> float:
    """Over what is defined; NaN if nothing is."""
    defined = [v for v in values if v is not None and np.isfinite(v)]
    return float(np.mean(defined)) if defined else float("nan")


def _seeds(results: Mapping[str, Any], arm: str) -> int:
    per_case = results["arms"][arm]["per_case"].values()
    return max((len(seeds) for seeds in per_case), default=0)
