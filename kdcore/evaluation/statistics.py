"""Paired comparison of two arms over the same cases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcore.evaluation.metrics import labels_of

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
        label: A foreground label or region, or "mean" for the mean over the labels that are
            defined.
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
    pairs, undefined = _pairs(results, a, b, label, metric)
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
        "undefined": undefined,
        "seeds_a": _seeds(results, a),
        "seeds_b": _seeds(results, b),
        "mean_a": float(pairs[:, 0].mean()),
        "mean_b": float(pairs[:, 1].mean()),
    }


def equivalence(
    results: Mapping[str, Any],
    a: str,
    b: str,
    margin: float = 0.005,
    *,
    label: str = MEAN,
    metric: str = "dice",
) -> dict[str, Any]:
    """Whether `a` is as good as `b`, up to a margin: two one-sided paired t-tests.

    Args:
        results: As for `compare`.
        a: Name of an arm.
        b: Name of the arm it is compared with.
        margin: What counts as no difference, 0.005 is half a Dice point.
        label: As for `compare`.
        metric: As for `compare`; one of which more is better.

    Returns:
        `difference`: mean of a − b. `p_not_worse`: for a − b ≤ −margin, small if `a` is
        non-inferior. `p_not_better`: for a − b ≥ margin. `p`: the larger, small if both are
        equivalent. `cases`. With one case, the p are None.

    Reference: Schuirmann 1987, https://doi.org/10.1007/BF01068419
    """
    if not margin > 0:
        raise ValueError(f"margin must be > 0. Received: {margin}.")
    pairs, _ = _pairs(results, a, b, str(label), metric)
    difference = pairs[:, 0] - pairs[:, 1]
    p = [_one_sided_p(difference, -margin, "greater"), _one_sided_p(difference, margin, "less")]
    return {
        "a": a,
        "b": b,
        "label": str(label),
        "metric": metric,
        "margin": margin,
        "difference": float(difference.mean()),
        "p_not_worse": p[0],
        "p_not_better": p[1],
        "p": None if p[0] is None or p[1] is None else max(p[0], p[1]),
        "cases": len(pairs),
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of several tests: below α, the family's error is below α, too.

    Reference: Holm 1979, https://www.jstor.org/stable/4615733
    """
    order = np.argsort(p_values)
    steps = np.asarray(p_values, float)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in adjusted]


def _one_sided_p(difference: np.ndarray, bound: float, alternative: str) -> float | None:
    if len(difference) < 2:
        return None
    if np.ptp(difference) == 0:  # no spread, no doubt
        beyond = difference[0] > bound if alternative == "greater" else difference[0] < bound
        return 0.0 if beyond else 1.0
    from scipy import stats

    return float(stats.ttest_1samp(difference, bound, alternative=alternative).pvalue)


def _pairs(
    results: Mapping[str, Any], a: str, b: str, label: str, metric: str
) -> tuple[np.ndarray, int]:
    """(cases, 2) values of cases that are defined for both, and how many are not."""
    values = [per_case(results, arm, label, metric) for arm in (a, b)]
    ids = sorted(set(values[0]) & set(values[1]))
    pairs = np.array([[values[0][i], values[1][i]] for i in ids], dtype=float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    if not len(pairs):
        raise ValueError(f"{a} and {b} have no case in common where {metric} is defined.")
    return pairs, len(set(values[0]) | set(values[1])) - len(pairs)


def gap_closed(
    results: Mapping[str, Any],
    student: str,
    baseline: str,
    teacher: str,
    *,
    label: str = MEAN,
    metric: str = "dice",
    seed: int = 0,
) -> dict[str, Any]:
    """Share of the way from baseline to teacher that the student went.

    (mean student − mean baseline) / (mean teacher − mean baseline), over the cases that are
    defined for all three, seeds averaged for each case.

    Args: as for `compare`.

    Returns:
        `share`: 0 is the baseline, 1 the teacher. `interval`: 95 %, from 10,000 bootstrap
        resamples of the cases; None with one case. `cases`: how many were used.

    Raises:
        ValueError: If an arm is unknown, no case is defined in all three, or the teacher
            is no better than the baseline, so that there is no gap.
    """
    values = [per_case(results, arm, label, metric) for arm in (student, baseline, teacher)]
    ids = sorted(set.intersection(*map(set, values)))
    rows = np.array([[value[i] for value in values] for i in ids], dtype=float).reshape(-1, 3)
    rows = rows[np.isfinite(rows).all(axis=1)]
    means = rows.mean(axis=0) if len(rows) else np.full(3, np.nan)
    if not means[2] > means[1]:
        raise ValueError(
            f"There is no gap to close: {teacher} has {means[2]:.3f} and {baseline} "
            f"{means[1]:.3f} over {len(rows)} cases."
        )
    return {
        "student": student,
        "baseline": baseline,
        "teacher": teacher,
        "label": label,
        "metric": metric,
        "share": float(_share(*means)),
        "interval": _bootstrap(tuple(rows.T), _share_of_means, seed),
        "cases": len(rows),
    }


def _share(student: Any, baseline: Any, teacher: Any) -> Any:
    return (student - baseline) / (teacher - baseline)


def _share_of_means(*samples: np.ndarray, axis: int) -> Any:
    return _share(*(sample.mean(axis=axis) for sample in samples))


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
    return _bootstrap((values,), np.mean, seed)


def _bootstrap(samples: Any, statistic: Any, seed: int) -> list[float] | None:
    """Percentile bootstrap interval of a statistic of paired samples, `(cases,)` each."""
    if len(samples[0]) < 2:
        return None
    from scipy import stats

    result = stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        paired=len(samples) > 1,
        vectorized=True,
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
    labels = labels_of(entry) if label == MEAN else [label]
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
