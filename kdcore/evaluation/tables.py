"""Tables of scores as text: a narrow one for a terminal, wider ones in Markdown for pages."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcore.evaluation.scores import ALL, MEAN, Source, Table, arms_of, as_table, mean_of, per_seed
from kdcore.evaluation.statistics import compare

Study = tuple[Table, Mapping[str, Any]]
"""Scores, and what `read_results` gives with them."""
_COLUMNS = (
    ("surface Dice 1 mm", "surface_dice_1mm", "{:.3f}"),
    ("HD95 mm", "hd95_mm", "{:.2f}"),
)


def summary(
    table: Source,
    parameters: Mapping[str, int] | None = None,
    *,
    baseline: str = "baseline",
    label: str = MEAN,
) -> str:
    """Each arm's Dice, and how far it is from the baseline, in at most 80 characters.

    Args:
        table: Scores, or the path of a table.
        parameters: Of each arm's network, where they are to be shown.
        baseline: The arm that the others are compared with.
        label: A label, a region or "mean".

    Returns:
        A Markdown table: arm, parameters, Dice, and the difference in Dice points
        (hundredths) with its 95 % interval over cases.

    Examples:
        >>> import pandas as pd
        >>> from kdcore.evaluation import table_of, tables
        >>> dice = {"student": (0.8, 0.9), "baseline": (0.7, 0.8)}
        >>> parts = [
        ...     table_of({"a": {"1": {"dice": a}}, "b": {"1": {"dice": b}}}, arm=arm)
        ...     for arm, (a, b) in dice.items()
        ... ]
        >>> print(tables.summary(pd.concat(parts), {"student": 30939, "baseline": 30939}))
        | arm      | parameters | Dice  | − baseline, Dice points  |
        | -------- | ---------- | ----- | ------------------------ |
        | student  | 30,939     | 0.850 | +10.00 (+10.00 … +10.00) |
        | baseline | 30,939     | 0.750 | –                        |
    """
    table, parameters = as_table(table), parameters or {}
    arms = arms_of(table)
    header = ["arm", "parameters", "Dice" if label == MEAN else f"Dice {label}"]
    header.append(f"− {baseline}, Dice points")
    rows = []
    for arm in arms:
        size = f"{parameters[arm]:,}" if arm in parameters else "–"
        row = [arm, size, f"{mean_of(table, arm, label):.3f}", "–"]
        if baseline in arms and arm != baseline:
            found = compare(table, arm, baseline, label=label)
            limits = interval(found["interval"], 100, "+.2f")
            row[-1] = f"{100 * found['difference']:+.2f} ({limits})"
        rows.append(row)
    if not parameters:
        header, rows = header[:1] + header[2:], [row[:1] + row[2:] for row in rows]
    return markdown(header, rows)


def arm_table(table: Table, arms: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """A Markdown table: arms in rows; Dice of each label and mean, distances if known, cost.

    Milliseconds are the least measured of all arms with the same network: what else the
    machine does can only make it slower.

    Args:
        table: Scores.
        arms: `{arm: {"params", "macs_a_slice", "ms_a_slice"}}`.
        labels: Names of the labels and regions, {"1": "anterior", ...}.
    """
    header = ["arm", "seeds", *(f"Dice {name}" for name in labels.values()), "mean Dice"]
    known = table.loc[np.isfinite(table["value"]), "metric"].unique()
    columns = [column for column in _COLUMNS if column[1] in known]
    header += [name for name, *_ in columns] + ["parameters", "MMACs a slice", "ms a slice"]
    fastest: dict[tuple[int, int], float] = {}
    for arm in arms.values():
        network = arm["params"], arm["macs_a_slice"]
        fastest[network] = min(arm["ms_a_slice"], fastest.get(network, np.inf))
    seeds = table.groupby("arm")["seed"].nunique()
    rows = []
    for name in arms_of(table):
        params, macs = arms[name]["params"], arms[name]["macs_a_slice"]
        dice = [mean_of(table, name, label) for label in (*labels, MEAN)]
        row = [name, str(seeds[name]), *(f"{value:.3f}" for value in dice)]
        row += [form.format(mean_of(table, name, MEAN, key)) for _, key, form in columns]
        rows.append([*row, f"{params:,}", f"{macs / 1e6:.1f}", f"{fastest[params, macs]:.2f}"])
    return markdown(header, rows)


def comparison_table(
    comparisons: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> str:
    """A Markdown table of comparisons, in Dice points (hundredths).

    With the interval over trainings as well as cases where it is known, and with the seeds of both
    arms where they are not as many.

    Args:
        comparisons: From `compare`.
        names: Of the labels and regions that were compared.
    """
    names = names or {}
    header = ["difference", "of", "Dice points", "95 % interval", "p", "cases"]
    adjusted = any("p_holm" in row for row in comparisons)
    trained = any(row.get("interval_seeds") for row in comparisons)
    if adjusted:
        header.insert(5, "p, Holm")
    if trained:
        header.insert(4, "trainings too")
    uneven = any(row.get("seeds_a") != row.get("seeds_b") for row in comparisons)
    if uneven:
        header.append("seeds")
    rows = []
    for row in comparisons:
        label = names.get(row["label"], row["label"])
        points = f"{100 * row['difference']:+.2f}"
        limits = [interval(row["interval"], 100, "+.2f")]
        limits += [interval(row.get("interval_seeds"), 100, "+.2f")] if trained else []
        ps = [_p(row["p"])] + ([_p(row.get("p_holm"))] if adjusted else [])
        cells = [f"{row['a']} − {row['b']}", label, points, *limits, *ps, str(row["cases"])]
        seeds = f"{row.get('seeds_a', '–')} and {row.get('seeds_b', '–')}"
        rows.append(cells + ([seeds] if uneven else []))
    return markdown(header, rows)


def equivalence_table(
    tests: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> str:
    """A Markdown table: is a student as good as its teacher, within a margin?

    Args:
        tests: From `equivalence`.
        names: Of the labels and regions that were compared.
    """
    names = names or {}
    rows = [
        [
            f"{row['a']} − {row['b']}",
            names.get(row["label"], row["label"]),
            f"{100 * row['difference']:+.2f}",
            f"± {100 * row['margin']:g}",
            _p(row["p_not_worse"]),
            _p(row["p"]),
        ]
        for row in tests
    ]
    return markdown(
        ["difference", "of", "Dice points", "margin", "p, not worse", "p, equivalent"], rows
    )


def calibration_table(table: Table, arms: Mapping[str, Any]) -> str:
    """A Markdown table of calibration, agreement with the teacher, and cost.

    Args:
        table: Scores.
        arms: `{arm: {"runs": {seed: {"training_seconds"}}}}`.
    """
    rows = []
    means = table[table["label"] == ALL].groupby(["arm", "metric"])["value"].mean()
    for name in arms_of(table):
        believed = [number(means.get((name, m)), ".4f") for m in ("ece", "nll", "brier")]
        agreed = number(means.get((name, "agreement")), ".3f")
        seconds = [run["training_seconds"] for run in arms[name]["runs"].values()]
        rows.append([name, *believed, agreed, f"{np.mean(seconds):.0f}"])
    header = ["arm", "ECE", "NLL", "Brier", "Dice with its teacher", "training seconds"]
    return markdown(header, rows)


def number(value: float | None, form: str) -> str:
    """Formatted, or a dash where it was not measured."""
    return "–" if value is None or np.isnan(value) else format(value, form)


def _p(value: float | None) -> str:
    return "< 0.0001" if value is not None and value < 0.0001 else number(value, ".4f")


def gap_table(gaps: Sequence[Mapping[str, Any]], names: Mapping[str, str] | None = None) -> str:
    """A Markdown table of the share of the gap from baseline to teacher that students close.

    Args:
        gaps: From `gap_closed`.
        names: Of the labels and regions.
    """
    names = names or {}
    rows = [
        [row["student"], names.get(row["label"], row["label"]), _gap(row), str(row["cases"])]
        for row in gaps
    ]
    return markdown(["student", "of", "gap closed (95 % interval)", "cases"], rows)


def budget_table(
    studies: Sequence[Study], label: str = MEAN, arms: Sequence[str] | None = None
) -> str:
    """A Markdown table over studies with different numbers of labelled cases.

    Args:
        studies: From `read_results`; an arm that one of them lacks is a dash there.
        label: A label, a region or "mean".
        arms: Only these.
    """
    arms = list(dict.fromkeys(a for t, _ in studies for a in arms_of(t))) if arms is None else arms
    closed_by = dict.fromkeys(row["student"] for _, about in studies for row in _gaps_of(about))
    students = [student for student in closed_by if student in arms]
    rows = []
    for table, about in studies:
        known, row = arms_of(table), [str(about["settings"]["num_labelled"])]
        row += [f"{mean_of(table, a, label):.3f}" if a in known else "–" for a in arms]
        closed = {r["student"]: r for r in _gaps_of(about) if r["label"] == label}
        rows.append(row + [_gap(closed.get(student)) for student in students])
    header = ["labels", *arms, *(f"gap closed by {student}" for student in students)]
    return markdown(header, rows)


def _gaps_of(about: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    gaps: Sequence[Mapping[str, Any]] = about.get("gap_closed", [])
    return gaps


def _gap(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{100 * row['share']:.0f} % ({interval(row['interval'], 100, '.0f')})"


def interval(limits: Sequence[float] | None, factor: float = 1.0, form: str = ".2f") -> str:
    """`low … high`, or a dash where there is none."""
    return "–" if limits is None else " … ".join(format(factor * x, form) for x in limits)


def seed_table(table: Table, label: str = MEAN) -> str:
    """A Markdown table of the Dice of each arm and seed."""
    dice = {arm: per_seed(table, arm, label) for arm in arms_of(table)}
    rows = [
        [str(seed), *(number(values.get(seed), ".3f") for values in dice.values())]
        for seed in sorted(table["seed"].unique())
    ]
    return markdown(["seed", *dice], rows)


def grid(
    table: Table, arms: Mapping[str, Any], label: str = MEAN
) -> dict[tuple[float, float], float]:
    """Mean Dice of the students, `[temperature, alpha]`.

    Args:
        table: Scores.
        arms: Settings, `{arm: {"distillation": None or {"temperature", "alpha"}}}`.
        label: A label, a region or "mean".
    """
    taught = {name: arms[name]["distillation"] for name in arms_of(table)}
    return {
        (how["temperature"], how["alpha"]): mean_of(table, name, label)
        for name, how in taught.items()
        if how is not None
    }


def grid_table(table: Table, arms: Mapping[str, Any], label: str = MEAN) -> str:
    """A Markdown table of the Dice at each temperature (rows) and alpha (columns)."""
    cells = grid(table, arms, label)
    alphas = sorted({alpha for _, alpha in cells})
    rows = [
        [f"{T:g}", *(number(cells.get((T, alpha)), ".3f") for alpha in alphas)]
        for T in sorted({T for T, _ in cells})
    ]
    return markdown(["T", *(f"alpha {alpha:g}" for alpha in alphas)], rows)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])
