"""Finished runs -> one results file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcore._files import plain, read_json, write_json
from kdcore.evaluation.cost import count_macs, milliseconds_a_slice, space_of
from kdcore.evaluation.statistics import MEAN, compare, per_case
from kdcore.study.experiment import Run
from kdcore.study.tasks import Task

KEYS = (
    "study", "commit", "versions", "hardware", "backend", "data", "split", "config", "arms",
    "comparisons",
)  # fmt: skip


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
        `study`, `commit`, `versions`, `hardware`, `backend`, `data`, `split` (of several folds
        `test` and `folds`), `config`,
        `arms[name]` with `params`, `macs_a_slice`, `ms_a_slice`, `seeds`,
        `per_case[case_id][seed][label]`, `calibration[case_id][seed]` and, of students,
        `agreement[case_id][seed]` with the teacher, and `comparisons`.

    Raises:
        ValueError: If there are no runs, the arms were not tested on the same cases, or folds
            share some.
    """
    records = [record(run, task) if isinstance(run, Run) else run for run in runs]
    if not records:
        raise ValueError("There are no finished runs to collect.")
    split = _split_of(records)
    arms: dict[str, Any] = {}
    folds = [fold["test"] for fold in split.get("folds", ())]
    for one in records:
        fold = folds.index(one["split"]["test"]) if folds else None
        _add(arms.setdefault(one["arm"], {"seeds": [], "runs": {}}), one, fold)
    results = {
        "study": study,
        **_origin(records),
        "data": task.describe(),
        "split": split,
        "config": dict(config),
        "arms": arms,
    }
    results = plain(results)
    results["comparisons"] = [
        plain(compare(results, a, b, label=label)) for label in labels for a, b in pairs
    ]
    return results


def _origin(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the runs were made with; where they differ, all that occurs."""
    return {
        key: _together([one.get(key) for one in records])
        for key in ("versions", "hardware", "backend", "commit")
    }


def _together(values: Sequence[Any]) -> Any:
    distinct = [value for i, value in enumerate(values) if value not in (None, *values[:i])]
    if len(distinct) < 2:
        return distinct[0] if distinct else None
    if all(isinstance(value, dict) for value in distinct):
        keys = dict.fromkeys(key for value in distinct for key in value)
        return {key: _together([value.get(key) for value in distinct]) for key in keys}
    if all(isinstance(value, list) for value in distinct):
        return list(dict.fromkeys(item for value in distinct for item in value))
    return ", ".join(map(str, distinct))


def _split_of(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    folds: dict[tuple[str, ...], dict[str, Any]] = {}
    of_arm: dict[str, set[tuple[str, ...]]] = {}
    for one in records:
        drawn, test = one["split"], tuple(one["split"]["test"])
        empty = {"validation": drawn["validation"], "test": drawn["test"], "labelled": {}}
        fold = folds.setdefault(test, empty)
        fold["labelled"][str(one["seed"])] = drawn["labelled"]
        of_arm.setdefault(one["arm"], set()).add(test)
    tested = [case_id for test in folds for case_id in test]
    if len(set(tested)) != len(tested) or any(own != set(folds) for own in of_arm.values()):
        raise ValueError("The runs were tested on different cases, so they cannot be compared.")
    if len(folds) == 1:
        return folds[tuple(tested)]
    return {"test": sorted(tested), "folds": list(folds.values())}


def save_results(results: Mapping[str, Any], path: str | Path) -> Path:
    """Write a results file."""
    write_json(path, results, sealed=True)
    return Path(path)


def load_results(path: str | Path) -> dict[str, Any]:
    """Read a results file.

    Raises:
        ValueError: If something is missing, or a score is none that can be.
    """
    content = read_json(path)
    missing = [k for k in KEYS if k not in content] if isinstance(content, dict) else KEYS
    if missing:
        raise ValueError(f"{path} is no results file: it lacks {', '.join(missing)}.")
    try:
        _check_arms(content["arms"])
    except ValueError as error:
        raise ValueError(f"{path} is no results file: {error}.") from error
    results: dict[str, Any] = content
    return results


def _check_arms(arms: Any) -> None:
    """Numbers where numbers belong, and Dice in [0, 1]."""
    for name, arm in _items(arms, "arms"):
        _items(arm, name)
        for case_id, seeds in _items(arm.get("per_case"), f"per_case of {name}"):
            for seed, labels in _items(seeds, f"{case_id} of {name}"):
                for label, scores in _items(labels, f"{case_id}, seed {seed} of {name}"):
                    for metric, value in _items(scores, f"label {label} of {case_id}"):
                        most = np.inf if metric.endswith("_mm") else 1.0
                        if value is not None and not (
                            type(value) in (int, float) and 0 <= value <= most
                        ):
                            raise ValueError(f"{name}, {case_id}: {metric} is {str(value)[:20]}")


def _items(value: Any, what: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a dict, not {type(value).__name__}")
    return value.items()


def collapsed(results: Mapping[str, Any], least: float) -> list[str]:
    """Runs ("arm seed") whose mean Dice on the test cases is below `least`."""
    return [
        f"{name} {seed}"
        for name, arm in results["arms"].items()
        for seed in arm["seeds"]
        if not _of_seed(arm, seed) >= least
    ]


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
    "model_digest", "teacher_digest", "member_digests", "history", "hardware", "backend",
    "versions", "commit",
)  # fmt: skip
_OF_A_RUN = (
    "training_seconds", "validation_dice", "model_digest", "history", "hardware", "backend",
    "commit",
)  # fmt: skip


def _add(arm: dict[str, Any], one: Mapping[str, Any], fold: int | None) -> None:
    seed = str(one["seed"])
    if one["seed"] not in arm["seeds"]:
        arm["seeds"].append(one["seed"])
    name = seed if fold is None else f"{seed}, fold {fold}"
    arm["runs"][name] = {key: one.get(key) for key in _OF_A_RUN}
    of_others = {key: one[key] for key in ("teacher_digest", "member_digests") if key in one}
    arm["runs"][name].update(of_others)
    for part in ("per_case", "calibration", "agreement"):
        for case_id, entry in one.get(part, {}).items():
            arm.setdefault(part, {}).setdefault(case_id, {})[seed] = entry
    for key in ("params", "macs_a_slice", "ms_a_slice"):
        arm.setdefault(key, one[key])


def mean_over_cases(results: Mapping[str, Any], arm: str, label: str, metric: str) -> float:
    """Of an arm's metric, seeds averaged; NaN where it is nowhere defined."""
    values = np.array(list(per_case(results, arm, label, metric).values()), dtype=float)
    return float(values[np.isfinite(values)].mean()) if np.isfinite(values).any() else np.nan


def where_present(results: Mapping[str, Any]) -> dict[str, Any]:
    """The same results without the scores of labels that a case's reference lacks.

    Such a score is undefined, or 0 where a network finds the label all the same, so that
    arms would be averaged over different cases. `false_finds` counts them.

    Args:
        results: With `absent`, `{label: [case ids]}`.
    """
    arms = {}
    for name, arm in results["arms"].items():
        cases = {
            case_id: {seed: _present(results, case_id, entry) for seed, entry in seeds.items()}
            for case_id, seeds in arm["per_case"].items()
        }
        arms[name] = {**arm, "per_case": cases}
    return {**results, "arms": arms}


def _present(results: Mapping[str, Any], case_id: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        label: dict.fromkeys(scores) if case_id in results["absent"].get(label, ()) else scores
        for label, scores in entry.items()
    }


def false_finds(results: Mapping[str, Any], arm: str, label: str) -> tuple[int, int]:
    """In how many runs a label was found that the reference lacks, and how many there are."""
    cases = results["arms"][arm]["per_case"]
    runs = [run for case_id in results["absent"][label] for run in cases[case_id].values()]
    return sum(run[label]["dice"] is not None for run in runs), len(runs)


def dice_of_seeds(arm: Mapping[str, Any], label: str = MEAN) -> dict[int, float]:
    """Mean Dice over the test cases for each of an arm's seeds."""
    return {seed: _of_seed(arm, seed, label) for seed in arm["seeds"]}


def _of_seed(arm: Mapping[str, Any], seed: int, label: str = MEAN) -> float:
    chosen = {c: {str(seed): entry[str(seed)]} for c, entry in arm["per_case"].items()}
    return mean_over_cases({"arms": {"arm": {"per_case": chosen}}}, "arm", label, "dice")
