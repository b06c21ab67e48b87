"""What the finished runs of an experiment say: every comparison its arms suggest."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from kdcore._files import plain
from kdcore.evaluation import tables
from kdcore.evaluation.statistics import MEAN, equivalence, gap_closed, holm
from kdcore.study import results
from kdcore.study import settings as config
from kdcore.study.experiment import Experiment, Run

COLLAPSED = 0.05  # mean foreground Dice on test below this is a network that found nothing


def summarize(job: Experiment, runs: Iterable[Run | Mapping[str, Any]]) -> dict[str, Any]:
    """The results of finished runs, with every comparison the arms suggest.

    Each student with the baseline of its size and with its teacher, the teacher with the
    baseline; and the share of the gap between the latter two that each student closes.
    """
    runs, order = list(runs), list(job.config.arms)
    done = {run.arm if isinstance(run, Run) else run["arm"] for run in runs}
    arms = {name: arm for name, arm in job.config.arms.items() if name in done}
    taught = {k: a.distillation.teacher for k, a in arms.items() if a.distillation is not None}
    taught = {student: teacher for student, teacher in taught.items() if teacher in done}
    compared = job.task.compared
    summary = results.collect(
        f"{job.name}-{job.config.num_labelled}-labels",
        sorted(runs, key=lambda run: _place(run, order)),
        _pairs(arms, taught),
        job.task,
        config.describe(job.config),
        labels=compared,
    )
    adjust(summary["comparisons"])
    summary["equivalence"] = [
        plain(equivalence(summary, student, teacher, label=label))
        for label in compared
        for student, teacher in taught.items()
    ]
    summary["gap_closed"] = _gaps(summary, arms, taught, compared)
    summary["collapsed"] = results.collapsed(summary, COLLAPSED)
    summary["absent"] = _absent(job, summary["split"]["test"])
    return summary


def _absent(job: Experiment, tested: Iterable[str]) -> dict[str, list[str]]:
    """Test cases whose reference lacks a label or region, by its name."""
    values = {key: (int(key),) for key in job.task.labels} | dict(job.task.regions)
    masks = {case.case_id: case.mask for case in job.cases if case.mask is not None}
    return {
        name: [case for case in tested if not np.isin(masks[case], labels).any()]
        for name, labels in values.items()
    }


def _pairs(arms: Mapping[str, config.Training], taught: Mapping[str, str]) -> list[tuple[str, str]]:
    """Students with baseline and teacher, and whatever else is to beat the baseline."""
    others = [name for name, arm in arms.items() if arm.label_smoothing or arm.members]
    pairs = [(name, _baseline_of(name, arms)) for name in taught]
    pairs += taught.items()
    pairs += [(name, "baseline") for name in dict.fromkeys([*taught.values(), *others])]
    return [pair for pair in dict.fromkeys(pairs) if set(pair) <= set(arms) and len({*pair}) == 2]


def _gaps(
    summary: Mapping[str, Any],
    arms: Mapping[str, config.Training],
    taught: Mapping[str, str],
    compared: Iterable[str],
) -> list[dict[str, Any]]:
    rows = []
    for label in compared:
        for student, teacher in taught.items() if "baseline" in arms else ():
            if teacher == "baseline":
                continue
            try:
                rows.append(plain(gap_closed(summary, student, "baseline", teacher, label=label)))
            except ValueError:  # the teacher is no better than the baseline
                continue
    return rows


def adjust(comparisons: list[dict[str, Any]]) -> None:
    """Holm's p over all comparisons of one label with a baseline."""
    for label in {row["label"] for row in comparisons}:
        family = [
            row
            for row in comparisons
            if row["label"] == label and row["b"].startswith("baseline") and row["p"] is not None
        ]
        for row, p in zip(family, holm([row["p"] for row in family]), strict=True):
            row["p_holm"] = p


def _baseline_of(arm: str, done: Iterable[str]) -> str:
    """`student-150k` is compared with `baseline-150k`."""
    size = arm.rsplit("-", 1)[-1]
    return f"baseline-{size}" if f"baseline-{size}" in done else "baseline"


def _place(run: Run | Mapping[str, Any], order: list[str]) -> tuple[int, int]:
    arm, seed = (run.arm, run.seed) if isinstance(run, Run) else (run["arm"], run["seed"])
    return order.index(arm), seed


def show(summary: dict[str, Any], names: dict[str, str]) -> None:
    """Print the tables of a summary, and what to have in mind with them."""
    print(tables.table(summary, names), tables.comparison_table(summary, names), sep="\n\n")
    if summary["gap_closed"]:
        print("", tables.gap_table(summary, names), sep="\n")
    print(f"\ncollapsed runs: {summary['collapsed'] or 'none'}")
    for remark in remarks(summary):
        print(f"Note: {remark}")


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a difference between arms may contain besides the arms."""
    found = []
    runs = [run for arm in summary["arms"].values() for run in arm["runs"].values()]
    for key in ("backend", "hardware"):
        distinct = {str(run[key]): run[key] for run in runs if run.get(key)}
        if len(distinct) > 1:
            found.append(f"the runs were made with more than one {key}: {', '.join(distinct)}.")
    uneven = [
        f"{row['a']} − {row['b']} ({row['seeds_a']} and {row['seeds_b']})"
        for row in summary["comparisons"]
        if row.get("seeds_a") != row.get("seeds_b") and row["label"] == MEAN
    ]
    if uneven:
        found.append(f"arms were compared with unlike numbers of seeds: {', '.join(uneven)}.")
    strangers = _strangers(summary)
    if strangers:
        found.append(
            f"{', '.join(strangers)} learnt from another training of the teacher, or consist of "
            "others, than are recorded here. Put the run folders of both machines together before "
            "students and ensembles are made."
        )
    return found


def _strangers(summary: Mapping[str, Any]) -> list[str]:
    """Runs ("arm seed") whose teacher or member is not the one the results hold."""
    arms, found = summary["arms"], []
    for name, arm in arms.items():
        taught = summary["config"]["arms"][name]["distillation"]
        for seed, run in arm["runs"].items():
            used = dict(run.get("member_digests", {}))
            if taught and "teacher_digest" in run:
                used[taught["teacher"]] = run["teacher_digest"]
            runs = {other: arms.get(other, {}).get("runs", {}).get(seed, {}) for other in used}
            known = {other: one.get("model_digest") for other, one in runs.items()}
            if any(known[other] not in (None, digest) for other, digest in used.items()):
                found.append(f"{name} {seed}")
    return found
