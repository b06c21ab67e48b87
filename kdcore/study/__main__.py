"""Arms × seeds × numbers of labels: `nox -s study -- --study evidence --workers 2`.

A seed decides the weights at the start, the order of the batches, the augmentation, and which
training cases are the labelled ones; validation and test cases stay the same. Of each
finished run a record is kept, a small JSON file named by all that decided it. A run whose
record is there is not done again, on whatever machine it was done; put the folders together
to add up several machines' work. Only a teacher is, for a student that lacks a record, where
its network is not among the runs. A run that was interrupted goes on. `--workers 0` trains
nothing and adds up what is finished; more than 1, and `--ray`, are processes of Ray.
"""

import argparse
import math
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from kdcore._cluster import connected
from kdcore._provenance import stands_on
from kdcore.evaluation import tables
from kdcore.evaluation.scores import write_results
from kdcore.study import results
from kdcore.study import settings as config
from kdcore.study.experiment import Experiment
from kdcore.study.queue import RUNS_A_PROCESS, Job, work, work_together


def main(arguments: list[str] | None = None) -> int:
    """Do what is missing, write a table for each number of labels, print a short one."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    with _in_one_line():
        _check_plan(from_options(options, options.study).task.plan, options)  # before data are read
        stages = list(_stages(options))
        jobs = list({job.name: job for _, jobs in stages for job in jobs}.values())
        _check(jobs, options.out)
    if options.ray or options.workers > 1:
        with _in_one_line():
            _work_together(jobs, options)
    elif options.workers:
        work(jobs, RUNS_A_PROCESS)
        if not (options.quiet or all(job.done for job in jobs)):
            _go_on(arguments, jobs)
    if not options.quiet:
        with _in_one_line():
            _add_up(stages, options.out)
    return 0


@contextmanager
def _in_one_line() -> Iterator[None]:
    """What is wrong with the input ends the program with its message alone."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error


def _check(jobs: Iterable[Job], out: str | None) -> None:
    """Before hours of training: every record can be read, and results can be written."""
    for job in jobs:
        if job.done:
            job.record()
    if out:
        Path(out).mkdir(parents=True, exist_ok=True)


def _check_plan(plan: str, options: argparse.Namespace) -> None:
    """A test case is scored after the plan that says what is asked of it, or knowingly without."""
    free = options.unplanned or options.tier == "smoke" or not options.workers
    if plan and not free and not stands_on(plan):
        raise ValueError(
            f"The test cases of these data are scored after the plan of their study, the tag "
            f"{plan}, and it is not in the history of this kdcore. In a clone: git fetch --tags. "
            "--unplanned runs all the same, to try something; publish nothing of it."
        )


def _add_up(stages: Sequence[tuple[Experiment, list[Job]]], out: str | None) -> None:
    """Of each number of labels what is finished."""
    summaries = []
    for experiment, jobs in _by_budget(stages):
        labels, done = experiment.config.num_labelled, [job.record() for job in jobs if job.done]
        if not done:
            print(f"{labels} labels: no run is finished.", flush=True)
            continue
        path = Path(out or experiment.root) / f"{experiment.name}-{labels}-labels.csv.gz"
        table, about = results.summarize(experiment, done)
        summaries.append((table, about))
        write_results(table, about, path)
        results.show(table, about)
        print(f"results: {path}, and what they are of in the .json beside it", flush=True)
    summaries.sort(key=lambda summary: summary[1]["settings"]["num_labelled"])
    task = stages[0][0].task
    for label in task.compared if summaries else ():
        name = task.scored.get(label, label)
        print(f"\nDice, {name}", tables.budget_table(summaries, label), sep="\n\n")


def _work_together(jobs: Sequence[Job], options: argparse.Namespace) -> None:
    """On this machine a small network keeps no second core busy, so that each run has one."""
    if options.ray:
        room = {"num_cpus": options.num_cpus, "num_gpus": options.num_gpus}
        with connected(options.ray) as ray:
            return work_together(ray, jobs, **room)
    with connected("local", num_cpus=options.workers) as ray:
        gpus = ray.cluster_resources().get("GPU", 0)
        share = min(1.0, 1 / math.ceil(options.workers / gpus)) if gpus else 0
        work_together(ray, jobs, num_gpus=share)


def _go_on(arguments: Sequence[str], jobs: Sequence[Job]) -> None:
    """In a new process, and another one: what a training leaves in memory goes with its process."""
    command = [sys.executable, "-m", "kdcore.study", *arguments, "--quiet"]
    while not all(job.done for job in jobs):
        if code := subprocess.run(command).returncode:  # noqa: S603
            raise SystemExit(f"A run failed; its message stands above. Exit code: {code}.")


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    first = argparse.ArgumentParser(add_help=False)
    first.add_argument("--study", choices=list(config.STUDIES), default="main")
    study = first.parse_known_args(arguments)[0].study
    parser = argparse.ArgumentParser(parents=[first], description="A study over seeds.")
    add_arguments(parser, study)
    parser.add_argument("--seeds", type=_count, default=3, help="number of seeds, from --seed on")
    parser.add_argument("--budgets", type=_count, nargs="*", help="numbers of labelled cases")
    parser.add_argument("--arms", nargs="*", help="only these arms (and their teachers)")
    parser.add_argument("--records", default=None, help="folder of what is kept of each run")
    parser.add_argument("--out", default=None, help="folder of the tables, .csv.gz")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="runs at once on this machine, a core each; 0 trains nothing and adds up what is "
        "finished; more than 1 need Ray: pip install 'kdcore[ray]'",
    )
    parser.add_argument(
        "--unplanned", action="store_true", help="score test cases before the study's plan"
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="the machines of a Ray cluster do the runs: host:6379, or that of this machine",
    )
    parser.add_argument("--num-cpus", type=float, default=1, help="of each run, with --ray")
    parser.add_argument("--num-gpus", type=float, default=0, help="of each run, with --ray")
    parser.add_argument("--quiet", action="store_true", help="print and write no tables")
    options = parser.parse_args(arguments)
    if options.ray or options.workers > 1:  # workers start in folders of their own
        for name in ("data_dir", "runs", "records"):
            if (folder := getattr(options, name)) is not None:
                setattr(options, name, str(Path(folder).resolve()))
    return options


def from_arguments(arguments: Sequence[str] | None = None, study: str = "main") -> Experiment:
    """The experiment that the command line asks for (in a notebook: the environment).

    `--data NAME --tier smoke|quick|full --data-dir FOLDER --runs FOLDER --seed N`; they default
    to KDCORE_DATASET, KDCORE_TIER, none, KDCORE_RUNS and 0. `--labelled`, `--validation` and
    `--test` change the numbers of cases, for data of your own.
    """
    parser = argparse.ArgumentParser(description=f"kdcore: {study}")
    add_arguments(parser, study)
    if arguments is None:
        arguments = [] if "ipykernel" in sys.modules else sys.argv[1:]
    return from_options(parser.parse_args(arguments), study)


def add_arguments(parser: argparse.ArgumentParser, study: str) -> None:
    """The arguments that every experiment of a study understands."""
    get, data = os.environ.get, list(config.STUDIES[study])
    wanted = get("KDCORE_DATASET")
    parser.add_argument("--data", choices=data, default=wanted if wanted in data else data[0])
    parser.add_argument(
        "--tier", choices=["smoke", "quick", "full"], default=get("KDCORE_TIER", "quick")
    )
    parser.add_argument("--data-dir", default=None, help="folder that holds the data")
    parser.add_argument("--runs", default=get("KDCORE_RUNS", "runs"), help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0)
    for part in ("labelled", "validation", "test"):
        parser.add_argument(f"--{part}", type=int, default=None, help=f"number of {part} cases")


def from_options(options: argparse.Namespace, study: str) -> Experiment:
    """The experiment of parsed arguments."""
    chosen = config.STUDIES[study][options.data][options.tier]
    counts = {f"num_{part}": getattr(options, part) for part in ("labelled", "validation", "test")}
    chosen = replace(chosen, **{k: n for k, n in counts.items() if n is not None})
    name = f"{options.data}-{options.tier}"
    name = name if study == "main" else f"{study}-{name}"
    return Experiment(chosen, name, options.runs, options.data_dir, options.seed)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, received {text!r}")
    return int(text)


def _stages(options: argparse.Namespace) -> Iterator[tuple[Experiment, list[Job]]]:
    """Number of labels by number of labels, seed by seed, the most informative first."""
    base = from_options(options, options.study)
    records = Path(options.records or base.root / "records")
    plan = [(budget, options.arms) for budget in options.budgets or []]
    if not plan and (options.arms or options.labelled or options.tier == "smoke"):
        plan = [(base.config.num_labelled, options.arms)]  # smoke has few cases
    if not plan:
        plan = config.PLANS.get(options.study, [(base.config.num_labelled, None)])
    for budget, arms in plan:
        chosen = base.with_seed(options.seed, budget)
        if arms:
            chosen.config = only(chosen.config, arms)
        seeds = range(options.seed, options.seed + options.seeds)
        folds = range(config.FOLDS.get(options.study, 1))
        each = [chosen.with_seed(seed, fold=fold) for seed in seeds for fold in folds]
        yield chosen, [Job(one, arm, records) for one in each for arm in one.config.arms]


def _by_budget(
    stages: Sequence[tuple[Experiment, list[Job]]],
) -> list[tuple[Experiment, list[Job]]]:
    """Stages with the same number of labels put together, each arm once."""
    together: dict[int, tuple[Experiment, list[Job]]] = {}
    for experiment, jobs in stages:
        known, have = together.setdefault(experiment.config.num_labelled, (experiment, []))
        names = {job.name for job in have}
        have += [job for job in jobs if job.name not in names]
        arms = {**known.config.arms, **experiment.config.arms}
        known.config = replace(known.config, arms=arms)
    return list(together.values())


def only(settings: config.Config, names: Iterable[str]) -> config.Config:
    """The settings with these arms and those that they need."""
    wanted = set(names)
    unknown = wanted - set(settings.arms)
    if unknown:
        raise ValueError(f"There is no arm {sorted(unknown)}. There are: {list(settings.arms)}.")
    for name in reversed(list(settings.arms)):  # what is needed stands before
        if name in wanted:
            wanted |= set(settings.arms[name].needs)
    return replace(settings, arms={k: arm for k, arm in settings.arms.items() if k in wanted})


if __name__ == "__main__":
    raise SystemExit(main())
