"""Paired comparison of two arms over the same cases."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdcore.evaluation.scores import MEAN, Source, Table, as_table, by_seed, per_case

RESAMPLES = 10_000


def compare(
    table: Source,
    a: str,
    b: str,
    *,
    label: str = MEAN,
    metric: str = "dice",
    seed: int = 0,
) -> dict[str, Any]:
    """How much arm `a` is above arm `b`, case by case, seeds averaged for each case.

    Args:
        table: Scores, as `table_of` or `read_table` gives them; or the path of a table.
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
        `interval_seeds`: where both arms have the same several seeds, the interval over
        trainings as well as cases, resampled both, seed by seed paired; else None. Of few
        seeds it is too narrow: of three, their part of the variance is a third too small.

    Raises:
        ValueError: If an arm, label or metric is unknown, or no case is defined in both.

    Examples:
        >>> import pandas as pd
        >>> from kdcore.evaluation import compare, table_of
        >>> student = {"a": {"1": {"dice": 0.8}}, "b": {"1": {"dice": 0.75}}}
        >>> baseline = {"a": {"1": {"dice": 0.7}}, "b": {"1": {"dice": 0.75}}}
        >>> arms = {"student": student, "baseline": baseline}
        >>> table = pd.concat([table_of(scores, arm=arm) for arm, scores in arms.items()])
        >>> report = compare(table, "student", "baseline")
        >>> round(report["difference"], 3), report["cases"]
        (0.05, 2)

    Reference: Efron and Tibshirani 1993, chapter 13; Nichols and Holmes 2002,
    https://doi.org/10.1002/hbm.1058
    """
    table, label = as_table(table), str(label)
    of_a, of_b = (by_seed(table, arm, label, metric) for arm in (a, b))
    paired = pd.concat([of_a.mean(axis=1), of_b.mean(axis=1)], axis=1).sort_index()
    pairs = _defined(paired, metric, a, b)
    difference = pairs[:, 0] - pairs[:, 1]
    return {
        "a": a,
        "b": b,
        "label": label,
        "metric": metric,
        "difference": float(difference.mean()),
        "interval": bootstrap_interval(difference, seed),
        "interval_seeds": _interval_over_seeds((of_a, of_b), np.subtract, seed),
        "p": sign_flip_p(difference, seed),
        "cases": len(pairs),
        "undefined": len(paired) - len(pairs),
        "seeds_a": len(of_a.columns),
        "seeds_b": len(of_b.columns),
        "mean_a": float(pairs[:, 0].mean()),
        "mean_b": float(pairs[:, 1].mean()),
    }


def equivalence(
    table: Source,
    a: str,
    b: str,
    margin: float = 0.005,
    *,
    label: str = MEAN,
    metric: str = "dice",
) -> dict[str, Any]:
    """Whether `a` is as good as `b`, up to a margin: two one-sided paired t-tests.

    Args:
        table: As for `compare`.
        a: Name of an arm.
        b: Name of the arm it is compared with.
        margin: What counts as no difference, 0.005 is half a Dice point.
        label: As for `compare`.
        metric: As for `compare`; one of which more is better.

    Returns:
        `difference`: mean of a − b. `p_not_worse`: for a − b ≤ −margin, small if `a` is
        non-inferior. `p_not_better`: for a − b ≥ margin. `p`: the larger, small if both are
        equivalent. `cases`. With one case, the p are None.

    Examples:
        >>> import pandas as pd
        >>> from kdcore.evaluation import equivalence, table_of
        >>> def scores(*values):
        ...     return {f"case {i}": {"1": {"dice": value}} for i, value in enumerate(values)}
        >>> table = pd.concat([
        ...     table_of(scores(0.801, 0.842, 0.899), arm="student"),
        ...     table_of(scores(0.8, 0.84, 0.9), arm="teacher"),
        ... ])
        >>> row = equivalence(table, "student", "teacher", margin=0.01, label="1")
        >>> row["p"] < 0.05
        True

    Reference: Schuirmann 1987, https://doi.org/10.1007/BF01068419
    """
    if not margin > 0:
        raise ValueError(f"margin must be > 0. Received: {margin}.")
    pairs = _of_arms(table, (a, b), str(label), metric)
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

    Examples:
        >>> from kdcore.evaluation import holm
        >>> holm([0.01, 0.5])
        [0.02, 0.5]

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


def adjust(comparisons: Sequence[dict[str, Any]]) -> None:
    """Give comparisons with a baseline `p_holm`, over all of the same label.

    Args:
        comparisons: From `compare`; changed in place.
    """
    for label in {row["label"] for row in comparisons}:
        family = [
            row
            for row in comparisons
            if row["label"] == label and row["b"].startswith("baseline") and row["p"] is not None
        ]
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p


def _of_arms(source: Source, arms: Sequence[str], label: str, metric: str) -> np.ndarray:
    """(cases, arms): seeds averaged, of the cases that are defined for all arms, sorted."""
    table = as_table(source)
    values = [per_case(table, arm, label, metric) for arm in arms]
    return _defined(pd.concat(values, axis=1).sort_index(), metric, *arms)


def _defined(values: Table, metric: str, *arms: str) -> np.ndarray:
    defined = values.dropna()
    if defined.empty:
        raise ValueError(f"{' and '.join(arms)} have no case in common where {metric} is defined.")
    return defined.to_numpy()


def gap_closed(
    table: Source,
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
        resamples of the cases; None with one case. `interval_seeds`: over trainings as well, as
        of `compare`. `cases`: how many were used.

    Raises:
        ValueError: If an arm is unknown, no case is defined in all three, or the teacher
            is no better than the baseline, so that there is no gap.

    Examples:
        >>> import pandas as pd
        >>> from kdcore.evaluation import gap_closed, table_of
        >>> def scores(*values):
        ...     return {f"case {i}": {"1": {"dice": value}} for i, value in enumerate(values)}
        >>> table = pd.concat([
        ...     table_of(scores(0.9, 0.88), arm="teacher"),
        ...     table_of(scores(0.86, 0.83), arm="student"),
        ...     table_of(scores(0.8, 0.78), arm="baseline"),
        ... ])
        >>> row = gap_closed(table, "student", "baseline", "teacher", label="1")
        >>> round(row["share"], 3)
        0.55
    """
    table, label, arms = as_table(table), str(label), (student, baseline, teacher)
    rows = _of_arms(table, arms, label, metric)
    means = rows.mean(axis=0)
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
        "interval_seeds": _interval_over_seeds(
            [by_seed(table, arm, label, metric) for arm in arms], _share, seed
        ),
        "cases": len(rows),
    }


def _share(student: Any, baseline: Any, teacher: Any) -> Any:
    return (student - baseline) / (teacher - baseline)


def _share_of_means(*samples: np.ndarray, axis: int) -> Any:
    return _share(*(sample.mean(axis=axis) for sample in samples))


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


def _interval_over_seeds(arms: Sequence[Table], statistic: Any, seed: int) -> list[float] | None:
    """95 % interval of a statistic of the arms' means, cases and seeds resampled, both paired.

    Args:
        arms: `(cases, seeds)` each, NaN where undefined.
        statistic: Of the means, a number for each arm.
        seed: Of the resampling.
    """
    seeds, cases = arms[0].columns, arms[0].index
    for arm in arms[1:]:
        cases = cases.intersection(arm.index)
    cases = cases.sort_values()
    alike = all(set(seeds) == set(arm.columns) for arm in arms)
    if len(seeds) < 2 or len(cases) < 2 or not alike:
        return None
    rng = np.random.default_rng(seed)
    drawn_seeds, drawn_cases = (
        rng.multinomial(count, np.full(count, 1 / count), RESAMPLES)  # how often each is drawn
        for count in (len(seeds), len(cases))
    )
    values = [_weighted(arm.loc[cases, seeds].to_numpy().T, drawn_seeds) for arm in arms]
    known = drawn_cases * np.isfinite(values).all(axis=0)  # (resamples, cases)
    count = known.sum(axis=1)
    totals = [(known * np.nan_to_num(value)).sum(axis=1) for value in values]
    means = [total[count > 0] / count[count > 0] for total in totals]
    found = np.percentile(statistic(*means), (2.5, 97.5)) if len(means[0]) else []
    return [float(x) for x in found] or None


def _weighted(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over the defined values (seeds, cases), weighted (resamples, seeds), or NaN."""
    count = weights @ np.isfinite(values)
    total = weights @ np.nan_to_num(values)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
