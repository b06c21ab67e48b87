"""What finished runs say: one table, what it is of, and every comparison its arms suggest."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from kdcore._files import plain
from kdcore.evaluation import tables
from kdcore.evaluation.cost import count_macs, milliseconds_a_slice, space_of
from kdcore.evaluation.metrics import absent_labels
from kdcore.evaluation.scores import (
    ALL,
    MEAN,
    Table,
    arms_of,
    per_patient,
    per_seed,
    table_of,
)
from kdcore.evaluation.statistics import adjust, compare, equivalence, gap_closed
from kdcore.study import settings as config
from kdcore.study.experiment import Experiment, Run
from kdcore.study.settings import Task

COLLAPSED = 0.05  # mean foreground Dice on test below this is a network that found nothing
Record = Mapping[str, Any]
"""What is kept of a finished run."""
_KEPT = (
    "arm", "seed", "per_case", "calibration", "agreement", "training_seconds", "validation_dice",
    "validation_false_finds", "model_digest", "teacher_digest", "member_digests", "history",
    "hardware", "backend", "versions", "commit",
)  # fmt: skip
_OF_A_RUN = (
    "training_seconds", "validation_dice", "validation_false_finds", "model_digest", "hardware",
    "backend", "commit",
)  # fmt: skip
_OF_OTHERS = ("teacher_digest", "member_digests")


def summarize(job: Experiment, runs: Iterable[Run | Record]) -> tuple[Table, dict[str, Any]]:
    """The scores of finished runs, and what they are of, with every comparison the arms suggest.

    Each student with the baseline of its size and with its teacher, the teacher with the
    baseline; and the share of the gap between the latter two that each student closes.

    Args:
        job: Its settings and task.
        runs: Finished runs of its arms, or what `record` kept of them.

    Returns:
        `(table, about)`, for `kdcore.evaluation.write_results`; `about` is that of `collect`
        with `comparisons`, `equivalence`, `gap_closed`, `collapsed` ("arm seed" of networks
        that found nothing), `absent` (`{label: [test cases that lack it]}`), and where patients
        have several scans `patients` (`{case: patient}`): then all comparisons are over patients.
    """
    order, compared = list(job.config.arms), job.task.compared
    records = [record(run, job.task) if isinstance(run, Run) else run for run in runs]
    records.sort(key=lambda one: (order.index(one["arm"]), one["seed"]))
    name = f"{job.name}-{job.config.num_labelled}-labels"
    table, about = collect(name, records, job.task, config.describe(job.config))
    arms = {name: arm for name, arm in job.config.arms.items() if name in about["arms"]}
    taught = {k: a.distillation.teacher for k, a in arms.items() if a.distillation is not None}
    taught = {student: teacher for student, teacher in taught.items() if teacher in arms}
    sampled = table
    if job.task.groups is not None:
        about["patients"] = {case: job.task.groups(case) for case in table["case"].unique()}
        sampled = per_patient(table, about["patients"])
    pairs = [*_pairs(arms, taught), *(pair for pair in job.config.pairs if {*pair} <= {*arms})]
    about["comparisons"] = [
        compare(sampled, a, b, label=label) for label in compared for a, b in dict.fromkeys(pairs)
    ]
    adjust(about["comparisons"])
    about["equivalence"] = [
        equivalence(sampled, student, teacher, label=label)
        for label in compared
        for student, teacher in taught.items()
    ]
    about["gap_closed"] = _gaps(sampled, taught, compared)
    about["collapsed"] = collapsed(table, COLLAPSED)
    tested = set(about["split"]["test"])
    cases = [case for case in job.cases if case.case_id in tested]
    about["absent"] = absent_labels(cases, job.task.labels, job.task.regions)
    return table, plain(about)


def collect(
    study: str, records: Sequence[Record], task: Task, settings: Mapping[str, Any]
) -> tuple[Table, dict[str, Any]]:
    """One table of records with the same test cases, and what it is of.

    Args:
        study: Its name.
        records: From `record`; those of one arm differ in their seeds, or folds.
        task: What the data are.
        settings: Shared by the runs.

    Returns:
        `(table, about)`; `about` holds `study`, `commit`, `versions`, `hardware`, `backend`,
        `data`, `split` (of several folds `test` and `folds`), `settings`, and `arms[name]`
        with `params`, `macs_a_slice`, `ms_a_slice`, `seeds`, `history` of the first run, and
        `runs[seed]` (or `runs["seed, fold n"]`).

    Raises:
        ValueError: If there are no records, the arms were not tested on the same cases, or
            folds share some.
    """
    if not records:
        raise ValueError("There are no finished runs to collect.")
    split = _split_of(records)
    folds = [fold["test"] for fold in split.get("folds", ())]
    arms: dict[str, Any] = {}
    for one in records:
        fold = folds.index(one["split"]["test"]) if folds else None
        _add(arms.setdefault(one["arm"], _new_arm(one)), one, fold)
    about = {
        "study": study,
        **_origin(records),
        "data": task.describe(),
        "split": split,
        "settings": dict(settings),
        "arms": arms,
    }
    rows = [
        table_of(_scores(one), study=study, arm=one["arm"], seed=one["seed"]) for one in records
    ]
    return pd.concat(rows, ignore_index=True), plain(about)


def _scores(one: Record) -> dict[str, Any]:
    """`{case: {label: {metric: value}}}` of a record; of whole cases under the label "all"."""
    scores = {case: dict(labels) for case, labels in one["per_case"].items()}
    for case, labels in scores.items():
        of_all = dict(one.get("calibration", {}).get(case, {}))
        if case in one.get("agreement", {}):
            of_all["agreement"] = one["agreement"][case]
        if of_all:
            labels[ALL] = of_all
    return scores


def _new_arm(one: Record) -> dict[str, Any]:
    of_network = {key: one[key] for key in ("params", "macs_a_slice", "ms_a_slice")}
    return {**of_network, "seeds": [], "runs": {}, "history": one.get("history")}


def _add(arm: dict[str, Any], one: Record, fold: int | None) -> None:
    if one["seed"] not in arm["seeds"]:
        arm["seeds"].append(one["seed"])
    name = str(one["seed"]) if fold is None else f"{one['seed']}, fold {fold}"
    arm["runs"][name] = {key: one.get(key) for key in _OF_A_RUN}
    arm["runs"][name] |= {key: one[key] for key in _OF_OTHERS if key in one}


def _origin(records: Sequence[Record]) -> dict[str, Any]:
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


def _split_of(records: Sequence[Record]) -> dict[str, Any]:
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


def record(run: Run, task: Task) -> dict[str, Any]:
    """What a study keeps of a finished run: everything but the network itself."""
    network, result, split = run.load(), run.result, vars(run.split)
    macs = count_macs(network, space_of(network, task.volume))
    return plain(
        {
            **{key: result[key] for key in _KEPT if key in result},
            "split": {part: split[part] for part in ("labelled", "validation", "test")},
            "params": network.count_params(),
            "macs_a_slice": macs if len(network.input_shape) == 4 else macs // task.volume[0],
            "ms_a_slice": milliseconds_a_slice(network, task.volume),
        }
    )


def collapsed(table: Table, least: float) -> list[str]:
    """Runs ("arm seed") whose mean Dice on the test cases is below `least`, or undefined."""
    dice = {arm: per_seed(table, arm) for arm in arms_of(table)}
    return [f"{arm} {s}" for arm, values in dice.items() for s in values.index[~(values >= least)]]


def _pairs(arms: Mapping[str, config.Training], taught: Mapping[str, str]) -> list[tuple[str, str]]:
    """Students with baseline and teacher, and whatever else is to beat the baseline."""
    others = [name for name, arm in arms.items() if arm.label_smoothing or arm.members]
    pairs = [(name, _baseline_of(name, arms)) for name in taught]
    pairs += taught.items()
    pairs += [(name, "baseline") for name in dict.fromkeys([*taught.values(), *others])]
    return [pair for pair in dict.fromkeys(pairs) if set(pair) <= set(arms) and len({*pair}) == 2]


def _baseline_of(arm: str, done: Iterable[str]) -> str:
    """`student-150k` is compared with `baseline-150k`."""
    size = arm.rsplit("-", 1)[-1]
    return f"baseline-{size}" if f"baseline-{size}" in done else "baseline"


def _gaps(table: Table, taught: Mapping[str, str], compared: Iterable[str]) -> list[dict[str, Any]]:
    rows = []
    for label in compared:
        for student, teacher in taught.items() if "baseline" in arms_of(table) else ():
            if teacher == "baseline":
                continue
            try:
                rows.append(gap_closed(table, student, "baseline", teacher, label=label))
            except ValueError:  # the teacher is no better than the baseline
                continue
    return rows


# --- what is printed -----------------------------------------------------------------------


def show(table: Table, about: Mapping[str, Any]) -> None:
    """Print a short table, and what to have in mind with it."""
    parameters = {arm: entry["params"] for arm, entry in about["arms"].items()}
    for label in dict.fromkeys([row["label"] for row in about["comparisons"]] or [MEAN]):
        print(tables.summary(table, parameters, label=label), end="\n\n")
    print(f"collapsed runs: {about['collapsed'] or 'none'}")
    for remark in remarks(about):
        print(f"Note: {remark}")


def remarks(about: Mapping[str, Any]) -> list[str]:
    """What a difference between arms may contain besides the arms."""
    found = []
    runs = [run for arm in about["arms"].values() for run in arm["runs"].values()]
    for key in ("backend", "hardware"):
        distinct = {str(run[key]): run[key] for run in runs if run.get(key)}
        if len(distinct) > 1:
            found.append(f"the runs were made with more than one {key}: {', '.join(distinct)}.")
    uneven = [
        f"{row['a']} − {row['b']} ({row['seeds_a']} and {row['seeds_b']})"
        for row in about["comparisons"]
        if row.get("seeds_a") != row.get("seeds_b") and row["label"] == MEAN
    ]
    if uneven:
        found.append(f"arms were compared with unlike numbers of seeds: {', '.join(uneven)}.")
    strangers = _strangers(about)
    if strangers:
        found.append(
            f"{', '.join(strangers)} learnt from another training of the teacher, or consist of "
            "others, than are recorded here. Put the run folders of both machines together before "
            "students and ensembles are made."
        )
    return found


def _strangers(about: Mapping[str, Any]) -> list[str]:
    """Runs ("arm seed") whose teacher or member is not the one the results hold."""
    arms, found = about["arms"], []
    for name, arm in arms.items():
        taught = about["settings"]["arms"][name]["distillation"]
        for seed, run in arm["runs"].items():
            used = dict(run.get("member_digests", {}))
            if taught and "teacher_digest" in run:
                used[taught["teacher"]] = run["teacher_digest"]
            runs = {other: arms.get(other, {}).get("runs", {}).get(seed, {}) for other in used}
            known = {other: one.get("model_digest") for other, one in runs.items()}
            if any(known[other] not in (None, digest) for other, digest in used.items()):
                found.append(f"{name} {seed}")
    return found
