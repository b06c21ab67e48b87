"""Arms × seeds × numbers of labels: `nox -s study -- --study cross-modal --seeds 3`.

A seed decides the weights at the start, the order of the batches, the augmentation, and which
training cases are the labelled ones; validation and test cases stay the same. A finished run
is not repeated, an interrupted one goes on, and the results file is written anew after
every seed.
"""

import argparse
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcore import config, results
from kdcore.experiment import Experiment, add_arguments, from_options, train
from kdcore.files import plain
from kdcore.runs import Run
from kdcore.statistics import gap_closed

COLLAPSED = 0.05  # mean foreground Dice on test below this is a network that found nothing


def main(arguments: list[str] | None = None) -> int:
    """Train what is missing, write a results file for each number of labels, print tables."""
    arguments = sys.argv[1:] if arguments is None else arguments
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--study", choices=list(config.STUDIES), default="main")
    study = first.parse_known_args(arguments)[0].study
    parser = argparse.ArgumentParser(parents=[first], description="A study over seeds.")
    add_arguments(parser, study)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds")
    parser.add_argument("--budgets", type=int, nargs="*", help="numbers of labelled cases")
    parser.add_argument("--arms", nargs="*", help="only these arms (and their teachers)")
    parser.add_argument("--out", default=None, help="folder of the results files")
    options = parser.parse_args(arguments)
    job = from_options(options, study)
    if options.arms:
        job.config = only(job.config, options.arms)
    summaries = []
    for labelled in options.budgets or [job.config.num_labelled]:
        path = Path(options.out or job.root) / f"{job.name}-{labelled}-labels.json"
        summaries.append(one_budget(job, labelled, options.seeds, path))
        show(summaries[-1], job.task.scored)
        print(f"results: {path}", flush=True)
    for label in job.task.compared:
        name = job.task.scored.get(label, label)
        print(f"\nDice, {name}", results.budget_table(summaries, label), sep="\n\n")
    return 0


def only(settings: config.Config, names: Iterable[str]) -> config.Config:
    """The settings with these arms and those that teach them."""
    wanted = set(names)
    unknown = wanted - set(settings.arms)
    if unknown:
        raise ValueError(f"There is no arm {sorted(unknown)}. There are: {list(settings.arms)}.")
    for name in reversed(list(settings.arms)):  # a teacher stands before its students
        distillation = settings.arms[name].distillation
        if name in wanted and distillation is not None:
            wanted.add(distillation.teacher)
    return replace(settings, arms={k: arm for k, arm in settings.arms.items() if k in wanted})


def one_budget(job: Experiment, labelled: int, seeds: int, path: Path) -> dict[str, Any]:
    """All arms of all seeds with so many labelled cases."""
    runs: list[Run] = []
    for seed in range(seeds):
        seeded = job.with_seed(seed, labelled)
        for arm in seeded.config.arms:
            run = train(seeded, arm)
            runs.append(run)
            print(
                f"{labelled} labels, seed {seed}, {arm}: validation Dice "
                f"{run.result['validation_dice']:.3f}, {run.result['training_seconds']:.0f} s",
                flush=True,
            )
        summary = summarize(seeded, runs)
        results.save_results(summary, path)
    return summary


def summarize(job: Experiment, runs: Iterable[Run]) -> dict[str, Any]:
    """The results of finished runs, with every comparison the arms suggest.

    Each student with the baseline and with its teacher, the teacher with the baseline; and the
    share of the gap between the latter two that each student closes.
    """
    arms, compared = job.config.arms, job.task.compared
    taught = {k: a.distillation.teacher for k, a in arms.items() if a.distillation is not None}
    pairs = [(name, "baseline") for name in taught] + list(taught.items())
    pairs += [(teacher, "baseline") for teacher in dict.fromkeys(taught.values())]
    pairs = [pair for pair in pairs if set(pair) <= set(arms)]
    summary = results.collect(
        f"{job.name}-{job.config.num_labelled}-labels",
        runs,
        pairs,
        job.task,
        config.describe(job.config),
        labels=compared,
    )
    summary["gap_closed"] = []
    for label in compared:
        for student, teacher in taught.items() if "baseline" in arms else ():
            try:
                row = gap_closed(summary, student, "baseline", teacher, label=label)
            except ValueError:  # the teacher is no better than the baseline
                continue
            summary["gap_closed"].append(plain(row))
    summary["collapsed"] = results.collapsed(summary, COLLAPSED)
    return summary


def show(summary: dict[str, Any], names: dict[str, str]) -> None:
    """Print the tables of a summary."""
    print(results.table(summary, names), results.comparison_table(summary, names), sep="\n\n")
    if summary["gap_closed"]:
        print("", results.gap_table(summary, names), sep="\n")
    print(f"\ncollapsed runs: {summary['collapsed'] or 'none'}")


if __name__ == "__main__":
    raise SystemExit(main())
