"""Results -> Markdown tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcore.evaluation.statistics import MEAN
from kdcore.study.results import dice_of_seeds, mean_over_cases

_COLUMNS = (
    ("surface Dice 1 mm", "surface_dice_1mm", "{:.3f}"),
    ("HD95 mm", "hd95_mm", "{:.2f}"),
)


def table(results: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """A Markdown table: arms in rows; Dice of each label and mean, distances, cost.

    Milliseconds are the least measured of all arms with the same network: what else the
    machine does can only make it slower.

    Args:
        results: From `collect` or `load_results`.
        labels: Names of the labels and regions, {"1": "anterior", ...}.
    """
    header = ["arm", "seeds", *(f"Dice {name}" for name in labels.values()), "mean Dice"]
    header += [name for name, *_ in _COLUMNS] + ["parameters", "MMACs a slice", "ms a slice"]
    fastest: dict[tuple[int, int], float] = {}
    for arm in results["arms"].values():
        network = arm["params"], arm["macs_a_slice"]
        fastest[network] = min(arm["ms_a_slice"], fastest.get(network, np.inf))
    rows = []
    for name, arm in results["arms"].items():
        dice = [mean_over_cases(results, name, label, "dice") for label in (*labels, "mean")]
        row = [name, str(len(arm["seeds"])), *(f"{value:.3f}" for value in dice)]
        for _, key, form in _COLUMNS:
            row.append(form.format(mean_over_cases(results, name, "mean", key)))
        row += [f"{arm['params']:,}", f"{arm['macs_a_slice'] / 1e6:.1f}"]
        rows.append([*row, f"{fastest[arm['params'], arm['macs_a_slice']]:.2f}"])
    return markdown(header, rows)


def comparison_table(results: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """A Markdown table of the comparisons, in Dice points (hundredths).

    With the seeds of both arms, where they are not as many.

    Args:
        results: From `collect` or `load_results`.
        names: Of the labels and regions that were compared.
    """
    names = names or {}
    header = ["difference", "of", "Dice points", "95 % interval", "p", "cases"]
    adjusted = any("p_holm" in row for row in results["comparisons"])
    if adjusted:
        header.insert(5, "p, Holm")
    uneven = any(row.get("seeds_a") != row.get("seeds_b") for row in results["comparisons"])
    if uneven:
        header.append("seeds")
    rows = []
    for row in results["comparisons"]:
        label = names.get(row["label"], row["label"])
        points = f"{100 * row['difference']:+.2f}"
        limits = interval(row["interval"], 100, "+.2f")
        ps = [_p(row["p"])] + ([_p(row.get("p_holm"))] if adjusted else [])
        cells = [f"{row['a']} − {row['b']}", label, points, limits, *ps, str(row["cases"])]
        seeds = f"{row.get('seeds_a', '–')} and {row.get('seeds_b', '–')}"
        rows.append(cells + ([seeds] if uneven else []))
    return markdown(header, rows)


def equivalence_table(results: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """A Markdown table: is a student as good as its teacher, within a margin?"""
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
        for row in results.get("equivalence", [])
    ]
    return markdown(
        ["difference", "of", "Dice points", "margin", "p, not worse", "p, equivalent"], rows
    )


def calibration_table(results: Mapping[str, Any]) -> str:
    """A Markdown table of calibration, agreement with the teacher, and cost."""
    rows = []
    for name, arm in results["arms"].items():
        beliefs = [_over_cases(arm.get("calibration"), key) for key in ("ece", "nll", "brier")]
        agreed = _over_cases(arm.get("agreement"))
        seconds = [run["training_seconds"] for run in arm["runs"].values()]
        row = [name, *(number(value, ".4f") for value in beliefs), number(agreed, ".3f")]
        rows.append([*row, f"{np.mean(seconds):.0f}"])
    header = ["arm", "ECE", "NLL", "Brier", "Dice with its teacher", "training seconds"]
    return markdown(header, rows)


def _over_cases(part: Mapping[str, Any] | None, key: str | None = None) -> float | None:
    """Mean over cases and seeds; None if it was not measured."""
    entries = [e for case in (part or {}).values() for e in case.values()]
    values = [entry[key] if key else entry for entry in entries]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def number(value: float | None, form: str) -> str:
    """Formatted, or a dash where it was not measured."""
    return "–" if value is None else format(value, form)


def _p(value: float | None) -> str:
    return "< 0.0001" if value is not None and value < 0.0001 else number(value, ".4f")


def gap_table(results: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """A Markdown table of the share of the gap from baseline to teacher that students close."""
    names = names or {}
    rows = [
        [
            row["student"],
            names.get(row["label"], row["label"]),
            _gap(row),
            str(row["cases"]),
        ]
        for row in results["gap_closed"]
    ]
    return markdown(["student", "of", "gap closed (95 % interval)", "cases"], rows)


def budget_table(
    summaries: Sequence[Mapping[str, Any]], label: str = MEAN, arms: Sequence[str] | None = None
) -> str:
    """A Markdown table over results with different numbers of labelled cases.

    Args:
        summaries: From `load_results`; an arm that one of them lacks is a dash there.
        label: A label, a region or "mean".
        arms: Only these.
    """
    arms = list(dict.fromkeys(a for s in summaries for a in s["arms"])) if arms is None else arms
    closed_by = dict.fromkeys(row["student"] for s in summaries for row in s["gap_closed"])
    students = [student for student in closed_by if student in arms]
    rows = []
    for summary in summaries:
        row = [str(summary["config"]["num_labelled"])]
        row += [_dice(summary, arm, label) for arm in arms]
        closed = {r["student"]: r for r in summary["gap_closed"] if r["label"] == label}
        rows.append(row + [_gap(closed.get(student)) for student in students])
    header = ["labels", *arms, *(f"gap closed by {student}" for student in students)]
    return markdown(header, rows)


def _dice(summary: Mapping[str, Any], arm: str, label: str) -> str:
    known = arm in summary["arms"]
    return number(mean_over_cases(summary, arm, label, "dice"), ".3f") if known else "–"


def _gap(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{100 * row['share']:.0f} % ({interval(row['interval'], 100, '.0f')})"


def interval(limits: Sequence[float] | None, factor: float = 1.0, form: str = ".2f") -> str:
    """`low … high`, or a dash where there is none."""
    return "–" if limits is None else " … ".join(format(factor * x, form) for x in limits)


def seed_table(results: Mapping[str, Any], label: str = MEAN) -> str:
    """A Markdown table of the Dice of each arm and seed."""
    arms = results["arms"]
    seeds = sorted({seed for arm in arms.values() for seed in arm["seeds"]})
    rows = []
    for seed in seeds:
        row = [str(seed)]
        for arm in arms.values():
            values = dice_of_seeds(arm, label)
            row.append(f"{values[seed]:.3f}" if seed in values else "–")
        rows.append(row)
    return markdown(["seed", *arms], rows)


def grid(results: Mapping[str, Any], label: str = MEAN) -> dict[tuple[float, float], float]:
    """Mean Dice of the students, `[temperature, alpha]`."""
    cells = {}
    for name in results["arms"]:
        taught = results["config"]["arms"][name]["distillation"]
        if taught is not None:
            value = mean_over_cases(results, name, label, "dice")
            cells[taught["temperature"], taught["alpha"]] = value
    return cells


def grid_table(results: Mapping[str, Any], label: str = MEAN) -> str:
    """A Markdown table of the Dice at each temperature (rows) and alpha (columns)."""
    cells = grid(results, label)
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
