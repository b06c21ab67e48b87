"""Finished runs -> one results file, and tables from it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.cost import count_macs, milliseconds_a_slice, space_of
from kdcore.files import plain, read_json, write_json
from kdcore.runs import Run, provenance
from kdcore.statistics import compare, per_case

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
    runs: Iterable[Run],
    pairs: Sequence[tuple[str, str]],
    data: Mapping[str, Any],
    config: Mapping[str, Any],
    *,
    volume: Sequence[int],
) -> dict[str, Any]:
    """One results dict from finished runs of one split.

    Args:
        study: Its name.
        runs: Finished runs; those of one arm differ in their seeds.
        pairs: Arms to compare, `(a, b)` for a − b.
        data: What the data are: name, licence, how to cite, number of cases.
        config: Settings shared by the runs.
        volume: `(D, H, W)` for which the cost of a slice is counted and measured.

    Returns:
        `study`, `commit`, `versions`, `hardware`, `backend`, `data`, `split`, `config`,
        `arms[name]` with `params`, `macs_a_slice`, `ms_a_slice`, `seeds`,
        `per_case[case_id][seed][label]` and `calibration[case_id][seed]`, and `comparisons`.
    """
    runs = list(runs)
    if not runs:
        raise ValueError("There are no finished runs to collect.")
    arms: dict[str, Any] = {}
    for run in runs:
        arm = arms.setdefault(run.arm, {"seeds": [], "per_case": {}, "calibration": {}, "runs": {}})
        _add(arm, run, volume)
    first = runs[0].split
    results = {
        "study": study,
        **provenance(),
        "data": dict(data),
        "split": {
            "validation": first.validation,
            "test": first.test,
            "labelled": {str(run.seed): run.split.labelled for run in runs},
            "note": "By case. A case of the hippocampus data is one hemisphere; which two "
            "belong to a person is not public, so a person may be on both sides.",
        },
        "config": dict(config),
        "arms": arms,
    }
    results = plain(results)
    results["comparisons"] = [plain(compare(results, a, b)) for a, b in pairs]
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
        labels: Names of the foreground labels, {"1": "anterior", ...}.
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


def comparison_table(results: Mapping[str, Any]) -> str:
    """A Markdown table of the comparisons, in Dice points (hundredths)."""
    rows = []
    for row in results["comparisons"]:
        points = 100 * row["difference"]
        interval = row["interval"]
        limits = "–" if interval is None else f"{100 * interval[0]:+.2f} … {100 * interval[1]:+.2f}"
        p = "–" if row["p"] is None else f"{row['p']:.4f}"
        rows.append([f"{row['a']} − {row['b']}", f"{points:+.2f}", limits, p, str(row["cases"])])
    return markdown(["difference", "Dice points", "95 % interval", "p", "cases"], rows)


def seed_table(results: Mapping[str, Any]) -> str:
    """A Markdown table of the mean Dice of each arm and seed."""
    arms = results["arms"]
    seeds = sorted({seed for arm in arms.values() for seed in arm["seeds"]})
    rows = []
    for seed in seeds:
        row = [str(seed)]
        for arm in arms.values():
            row.append(f"{_of_seed(arm, seed):.3f}" if seed in arm["seeds"] else "–")
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


def _add(arm: dict[str, Any], run: Run, volume: Sequence[int]) -> None:
    result = run.result
    arm["seeds"].append(run.seed)
    arm["runs"][str(run.seed)] = {
        key: result.get(key)
        for key in (
            "training_seconds",
            "validation_dice",
            "model_digest",
            "hardware",
            "backend",
        )
    }
    for case_id, entry in result["per_case"].items():
        arm["per_case"].setdefault(case_id, {})[str(run.seed)] = entry
    for case_id, beliefs in result.get("calibration", {}).items():
        arm["calibration"].setdefault(case_id, {})[str(run.seed)] = beliefs
    if "params" not in arm:
        network = run.load()
        flat = len(network.input_shape) == 4
        macs = count_macs(network, space_of(network, volume))
        arm |= {
            "params": network.count_params(),
            "macs_a_slice": macs if flat else macs // volume[0],
            "ms_a_slice": milliseconds_a_slice(network, volume),
        }


def _mean(results: Mapping[str, Any], arm: str, label: str, metric: str) -> float:
    values = np.array(list(per_case(results, arm, label, metric).values()), dtype=float)
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def _of_seed(arm: Mapping[str, Any], seed: int) -> float:
    chosen = {c: {str(seed): entry[str(seed)]} for c, entry in arm["per_case"].items()}
    return _mean({"arms": {"arm": {"per_case": chosen}}}, "arm", "mean", "dice")
