"""Finished runs -> one results file, and tables from it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.cost import count_macs, milliseconds_a_slice, space_of
from kdcore.files import plain, read_json, write_json
from kdcore.runs import Run, provenance
from kdcore.statistics import MEAN, compare, per_case
from kdcore.tasks import Task

KEYS = (
    "study", "commit", "versions", "hardware", "backend", "data", "split", "config", "arms",
    "comparisons",
)  # fmt: skip
_COLUMNS = (
    ("surface Dice 1 mm", "surface_dice_1mm", "{:.3f}"),
    ("HD95 mm", "hd95_mm", "{:.2f}"),
)


def collect(
    study: str,
    runs: Iterable[Run | Mapping[str, Any]],
    pairs: Sequence[tuple[str, str]],
    task: Task,
    config: Mapping[str, Any],
    *,
    labels: Sequence[str] = (MEAN,),
) -> dict[str, Any]:
    """One results dict from finished runs with the same test cases.

    Args:
        study: Its name.
        runs: Finished runs, or what `record` kept of them; those of one arm differ in their
            seeds.
        pairs: Arms to compare, `(a, b)` for a − b.
        task: What the data are.
        config: Settings shared by the runs.
        labels: What is compared: labels, regions, or "mean".

    Returns:
        `study`, `commit`, `versions`, `hardware`, `backend`, `data`, `split`, `config`,
        `arms[name]` with `params`, `macs_a_slice`, `ms_a_slice`, `seeds`,
        `per_case[case_id][seed][label]`, `calibration[case_id][seed]` and, of students,
        `agreement[case_id][seed]` with the teacher, and `comparisons`.

    Raises:
        ValueError: If there are no runs, or they were tested on different cases.
    """
    records = [record(run, task) if isinstance(run, Run) else run for run in runs]
    if not records:
        raise ValueError("There are no finished runs to collect.")
    first = records[0]["split"]
    if any(other["split"]["test"] != first["test"] for other in records):
        raise ValueError("The runs were tested on different cases, so they cannot be compared.")
    arms: dict[str, Any] = {}
    for one in records:
        _add(arms.setdefault(one["arm"], {"seeds": [], "runs": {}}), one)
    results = {
        "study": study,
        **provenance(),
        "data": task.describe(),
        "split": {
            "validation": first["validation"],
            "test": first["test"],
            "labelled": {str(one["seed"]): one["split"]["labelled"] for one in records},
        },
        "config": dict(config),
        "arms": arms,
    }
    results = plain(results)
    results["comparisons"] = [
        plain(compare(results, a, b, label=label)) for label in labels for a, b in pairs
    ]
    return results


def save_results(results: Mapping[str, Any], path: str | Path) -> Path:
    """Write a results file."""
    write_json(path, results)
    return Path(path)


def load_results(path: str | Path) -> dict[str, Any]:
    """Read a results file, and say what is missing if it is none."""
    content = read_json(path)
    missing = [k for k in KEYS if k not in content] if isinstance(content, dict) else KEYS
    if missing:
        raise ValueError(f"{path} is no results file: it lacks {', '.join(missing)}.")
    results: dict[str, Any] = content
    return results


def table(results: Mapping[str, Any], labels: Mapping[str, str]) -> str:
    """A Markdown table: arms in rows; Dice of each label and mean, distances, cost.

    Args:
        results: From `collect` or `load_results`.
        labels: Names of the labels and regions, {"1": "anterior", ...}.
    """
    header = ["arm", "seeds", *(f"Dice {name}" for name in labels.values()), "mean Dice"]
    header += [name for name, *_ in _COLUMNS] + ["parameters", "MMACs a slice", "ms a slice"]
    rows = []
    for name, arm in results["arms"].items():
        dice = [_mean(results, name, label, "dice") for label in (*labels, "mean")]
        row = [name, str(len(arm["seeds"])), *(f"{value:.3f}" for value in dice)]
        row += [form.format(_mean(results, name, "mean", key)) for _, key, form in _COLUMNS]
        row += [f"{arm['params']:,}", f"{arm['macs_a_slice'] / 1e6:.1f}"]
        rows.append([*row, f"{arm['ms_a_slice']:.2f}"])
    return markdown(header, rows)


def comparison_table(results: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """A Markdown table of the comparisons, in Dice points (hundredths).

    Args:
        results: From `collect` or `load_results`.
        names: Of the labels and regions that were compared.
    """
    names = names or {}
    rows = []
    for row in results["comparisons"]:
        p = "–" if row["p"] is None else f"{row['p']:.4f}"
        label = names.get(row["label"], row["label"])
        points = f"{100 * row['difference']:+.2f}"
        limits = interval(row["interval"], 100, "+.2f")
        rows.append([f"{row['a']} − {row['b']}", label, points, limits, p, str(row["cases"])])
    return markdown(["difference", "of", "Dice points", "95 % interval", "p", "cases"], rows)


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


def budget_table(summaries: Sequence[Mapping[str, Any]], label: str = MEAN) -> str:
    """A Markdown table over results with different numbers of labelled cases.

    Args:
        summaries: From `load_results`, with the same arms.
        label: A label, a region or "mean".
    """
    arms = list(summaries[0]["arms"])
    students = list(dict.fromkeys(row["student"] for s in summaries for row in s["gap_closed"]))
    rows = []
    for summary in summaries:
        row = [str(summary["config"]["num_labelled"])]
        row += [f"{_mean(summary, arm, label, 'dice'):.3f}" for arm in arms]
        closed = {r["student"]: r for r in summary["gap_closed"] if r["label"] == label}
        rows.append(row + [_gap(closed.get(student)) for student in students])
    header = ["labels", *arms, *(f"gap closed by {student}" for student in students)]
    return markdown(header, rows)


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
            row.append(f"{_of_seed(arm, seed, label):.3f}" if seed in arm["seeds"] else "–")
        rows.append(row)
    return markdown(["seed", *arms], rows)


def collapsed(results: Mapping[str, Any], least: float) -> list[str]:
    """Runs ("arm seed") whose mean Dice on the test cases is below `least`."""
    return [
        f"{name} {seed}"
        for name, arm in results["arms"].items()
        for seed in arm["seeds"]
        if not _of_seed(arm, seed) >= least
    ]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, rows)])


def record(run: Run, task: Task) -> dict[str, Any]:
    """What a study keeps of a finished run: everything but the network itself."""
    network = run.load()
    macs = count_macs(network, space_of(network, task.volume))
    split = vars(run.split)
    return plain(
        {
            **{key: run.result[key] for key in _KEPT if key in run.result},
            "split": {part: split[part] for part in ("labelled", "validation", "test")},
            "params": network.count_params(),
            "macs_a_slice": macs if len(network.input_shape) == 4 else macs // task.volume[0],
            "ms_a_slice": milliseconds_a_slice(network, task.volume),
        }
    )


_KEPT = (
    "arm", "seed", "per_case", "calibration", "agreement", "training_seconds", "validation_dice",
    "model_digest", "hardware", "backend", "versions", "commit",
)  # fmt: skip
_OF_A_RUN = ("training_seconds", "validation_dice", "model_digest", "hardware", "backend", "commit")


def _add(arm: dict[str, Any], one: Mapping[str, Any]) -> None:
    seed = str(one["seed"])
    arm["seeds"].append(one["seed"])
    arm["runs"][seed] = {key: one.get(key) for key in _OF_A_RUN}
    for part in ("per_case", "calibration", "agreement"):
        for case_id, entry in one.get(part, {}).items():
            arm.setdefault(part, {}).setdefault(case_id, {})[seed] = entry
    for key in ("params", "macs_a_slice", "ms_a_slice"):
        arm.setdefault(key, one[key])


def _mean(results: Mapping[str, Any], arm: str, label: str, metric: str) -> float:
    values = np.array(list(per_case(results, arm, label, metric).values()), dtype=float)
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def dice_of_seeds(arm: Mapping[str, Any], label: str = MEAN) -> dict[int, float]:
    """Mean Dice over the test cases for each of an arm's seeds."""
    return {seed: _of_seed(arm, seed, label) for seed in arm["seeds"]}


def _of_seed(arm: Mapping[str, Any], seed: int, label: str = MEAN) -> float:
    chosen = {c: {str(seed): entry[str(seed)]} for c, entry in arm["per_case"].items()}
    return _mean({"arms": {"arm": {"per_case": chosen}}}, "arm", label, "dice")
