"""A reader's own numbers beside the published ones."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from kdcore.evaluation.scores import (
    MEAN,
    Source,
    Table,
    arms_of,
    as_table,
    per_seed,
    where_present,
)
from kdcore.evaluation.tables import markdown


def expected_range(values: Sequence[float]) -> tuple[float, float] | None:
    """Where one more run of another seed lies with 95 % probability; None for one value.

    mean ± t · s · √(1 + 1/n), Student's t with n − 1 degrees of freedom: a prediction
    interval, wider than the interval of the mean, and much wider for few seeds.
    """
    if len(values) < 2:
        return None
    from scipy import stats

    count, mean, spread = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, count - 1) * spread * np.sqrt(1 + 1 / count)
    return float(mean - half), float(mean + half)


def beside_published(
    own: Source,
    published: Source | Sequence[Source],
    label: str = MEAN,
    name: str | None = None,
    *,
    absent: Mapping[str, Iterable[str]] | None = None,
) -> str:
    """A Markdown table: Dice and differences of Dice here and as published, and whether they agree.

    Few seeds make the range of an arm's Dice wide, so wide that exchanged networks could
    lie in it; the differences between arms, of one seed each, are the sharper comparison.
    A scan whose reference lacks a label is left out for that label, since the arms would
    otherwise be averaged over different scans.

    Args:
        own: Scores of the reader's runs, or the path of a table.
        published: The published ones; of a list of tables all runs count, as further seeds.
        label: A label, a region or "mean".
        name: What the label is called.
        absent: `{label: [cases whose reference lacks it]}`, as a study's JSON file has it.

    Returns:
        The table; of other test cases than the published ones a sentence instead, since
        nothing could be said to agree.

    Examples:
        >>> import pandas as pd
        >>> from kdcore.evaluation import beside_published, table_of
        >>> def scores(*values):
        ...     return {f"case {i}": {"1": {"dice": value}} for i, value in enumerate(values)}
        >>> table = pd.concat([
        ...     table_of(scores(0.8, 0.84), arm="student"),
        ...     table_of(scores(0.7, 0.8), arm="baseline"),
        ... ])
        >>> text = beside_published(table, table, label="1", name="Tumour")
        >>> "student" in text
        True
    """
    several = published if isinstance(published, list | tuple) else [published]
    mine, *others = (as_table(one) for one in (own, *several))
    tested, theirs = set(mine["case"]), {case for one in others for case in one["case"]}
    if tested != theirs:
        return (
            f"Not comparable: these are {len(tested)} test cases, the published ones "
            f"{len(theirs)}, of which {len(tested & theirs)} are the same."
        )
    known: dict[str, list[float]] = {}
    for one in others:
        for what, values in _of_seeds(where_present(one, absent or {}), label).items():
            known.setdefault(what, []).extend(values)
    rows = [
        _compared(what, values, known[what], 0.0 if " − " not in what else -1.0)
        for what, values in _of_seeds(where_present(mine, absent or {}), label).items()
        if what in known
    ]
    called = name or label
    header = [f"Dice {called}", "here", "published", "expected of another seed", "within"]
    return markdown(header, rows) + _left_out(absent or {})


def _left_out(absent: Mapping[str, Iterable[str]]) -> str:
    """A paragraph on the scans that do not count for every label; empty where all do."""
    cases = {case for lacking in absent.values() for case in lacking}
    told = (
        f"\n\nScored where the reference holds the label, which {len(cases)} scans lack; in "
        "tables of single arms a false find counts as 0."
    )
    return told if cases else ""


def _of_seeds(table: Table, label: str) -> dict[str, list[float]]:
    """Dice of each arm's seeds, and of student − baseline and student − teacher."""
    dice = {arm: per_seed(table, arm, label) for arm in arms_of(table)}
    values = {arm: of_seeds.tolist() for arm, of_seeds in dice.items()}
    for a, b in (("student", "baseline"), ("student", "teacher")):
        if a in dice and b in dice:
            values[f"{a} − {b}"] = (dice[a] - dice[b]).dropna().tolist()
    return {what: of_seeds for what, of_seeds in values.items() if of_seeds}


def _compared(what: str, mine: list[float], theirs: list[float], least: float) -> list[str]:
    form = "{:.3f}" if least == 0 else "{:+.3f}"
    limits = expected_range(theirs)
    row = [what, ", ".join(map(form.format, mine)), f"{form.format(np.mean(theirs))}"]
    row[-1] += f" ({len(theirs)} runs)"
    if limits is None:
        return [*row, "–", "–"]
    low, high = max(limits[0], least), min(limits[1], 1.0)
    inside = all(low <= value <= high for value in mine)
    return [*row, f"{form.format(low)} … {form.format(high)}", "yes" if inside else "no"]
