"""Arms × seeds × numbers of labels: `nox -s study -- --study evidence --workers 2`.

A seed decides the weights at the start, the order of the batches, the augmentation, and which
training cases are the labelled ones; validation and test cases stay the same. Of each
finished run a record is kept, a small JSON file named by all that decided it. A run whose
record is there is not done again, on whatever machine it was done; put the folders together
to add up several machines' work. Only a teacher is, for a student that lacks a record, where
its network is not among the runs. A run that was interrupted goes on. `--workers 0` trains
nothing and adds up what is finished.
"""

import argparse
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from filelock import Timeout

from kdcore._files import lock, read_sealed, write_json
from kdcore.evaluation import tables
from kdcore.study import results
from kdcore.study import settings as config
from kdcore.study.arguments import add_arguments, from_options
from kdcore.study.experiment import Experiment, train
from kdcore.study.summary import show, summarize

_NEEDED = {"arm", "seed", "split", "per_case", "validation_dice", "params", "macs_a_slice"}


@dataclass(frozen=True)
class Job:
    """One arm of one seed with so many labelled cases."""

    experiment: Experiment
    arm: str
    records: Path

    @property
    def name(self) -> str:
        labels, fold, seed = self.group
        of_fold = f", fold {fold}" if fold else ""
        return f"{labels} labels{of_fold}, seed {seed}, {self.arm}"

    @property
    def group(self) -> tuple[int, int, int]:
        """Jobs of one group may need each other."""
        job = self.experiment
        return job.config.num_labelled, job.fold, job.seed

    @cached_property
    def key(self) -> str:
        return self.experiment.key(self.arm)

    @cached_property
    def path(self) -> Path:
        return self.records / f"{self.arm}-seed{self.experiment.seed}-{self.key[:12]}.json"

    @property
    def done(self) -> bool:
        return self.path.exists()

    def record(self) -> dict[str, Any]:
        """What is kept of it; raises ValueError if the file is not of this job, or damaged."""
        kept: dict[str, Any] = read_sealed(self.path)
        if not self._is_mine(kept):
            raise ValueError(
                f"{self.path} is no record of this run ({self.name}). Delete it to do it again."
            )
        return kept

    def _is_mine(self, kept: Any) -> bool:
        if not isinstance(kept, dict) or _NEEDED - set(kept):
            return False
        own = {"arm": self.arm, "seed": self.experiment.seed, "key": self.key}
        return all(kept.get(name, value) == value for name, value in own.items())

    def run(self) -> None:
        """Train, evaluate, keep the record, unless another process does."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.done:
            kept = results.record(train(self.experiment, self.arm), self.experiment.task)
            write_json(self.path, {**_rounded(kept), "key": self.key}, indent=None, sealed=True)


def main(arguments: list[str] | None = None) -> int:
    """Do what is missing, write a results file for each number of labels, print tables."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parse(arguments)
    with _in_one_line():
        stages = list(_stages(options))
        jobs = list({job.name: job for _, jobs in stages for job in jobs}.values())
        _check(jobs, options.out)
    if options.workers > 1:
        _start_workers(arguments, options.workers)
    elif options.workers:
        work(jobs)
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


def _add_up(stages: Sequence[tuple[Experiment, list[Job]]], out: str | None) -> None:
    """Of each number of labels what is finished."""
    summaries = []
    for experiment, jobs in _by_budget(stages):
        labels, done = experiment.config.num_labelled, [job.record() for job in jobs if job.done]
        if not done:
            print(f"{labels} labels: no run is finished.", flush=True)
            continue
        path = Path(out or experiment.root) / f"{experiment.name}-{labels}-labels.json"
        summaries.append(summarize(experiment, done))
        results.save_results(summaries[-1], path)
        show(summaries[-1], experiment.task.scored)
        print(f"results: {path}", flush=True)
    summaries.sort(key=lambda summary: summary["config"]["num_labelled"])
    task = stages[0][0].task
    for label in task.compared if summaries else ():
        name = task.scored.get(label, label)
        print(f"\nDice, {name}", tables.budget_table(summaries, label), sep="\n\n")


def work(jobs: Sequence[Job]) -> None:
    """Do the jobs that have no record; those that another process has in hand are left to it."""
    start, before = time.monotonic(), {job.name for job in jobs if job.done}
    print(f"{len(before)} of {len(jobs)} runs are finished.", flush=True)
    waiting = False
    while left := [job for job in jobs if not job.done]:
        taken = next((job for job in left if _ready(job, left) and _attempt(job)), None)
        if taken is None:
            if not waiting:
                print("Another process has in hand what could be done next; waiting.", flush=True)
            waiting = True
            time.sleep(1)
            continue
        waiting = False
        done = [job for job in jobs if job.done]
        costs = _costs(jobs, done)
        new = sum(costs[job.name] for job in done if job.name not in before)
        to_do = sum(costs[job.name] for job in jobs if job not in done)
        minutes = math.ceil((time.monotonic() - start) * to_do / new / 60)
        dice = tables.number(taken.record()["validation_dice"], ".3f")
        told = f"; about {minutes} minutes left" if to_do else ""
        print(
            f"{taken.name}: validation Dice {dice}. {len(done)} of {len(jobs)} runs{told}",
            flush=True,
        )


def _costs(jobs: Sequence[Job], done: Sequence[Job]) -> dict[str, float]:
    """What each takes, one beside the other: by its arm, of an unknown arm the mean of all."""
    seconds: dict[str, list[float]] = {}
    for job in done:
        seconds.setdefault(job.arm, []).append(job.record().get("training_seconds") or 1.0)
    mean = float(np.mean([value for values in seconds.values() for value in values]))
    return {job.name: float(np.mean(seconds.get(job.arm, mean))) for job in jobs}


def _ready(job: Job, left: Sequence[Job]) -> bool:
    needed = job.experiment.training(job.arm).needs
    return not any(o.arm in needed and o.group == job.group for o in left)


def _attempt(job: Job) -> bool:
    """False if another process has it in hand."""
    try:
        with lock(job.experiment.root / job.path.stem, wait=False):
            job.run()
    except Timeout:
        return False
    keras.utils.clear_session()
    return True


def _start_workers(arguments: Sequence[str], count: int) -> None:
    """Several processes with one thread each: a small network keeps no second core busy."""
    command = [sys.executable, "-m", "kdcore.study", *arguments, "--workers", "1", "--quiet"]
    threads = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1", "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(command, env=threads | os.environ)  # noqa: S603
        for _ in range(count)
    ]
    try:
        codes = [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.terminate()
    if any(codes):
        raise SystemExit(f"A worker failed; its message stands above. Exit codes: {codes}.")


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
    parser.add_argument("--out", default=None, help="folder of the results files")
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        help="processes at once, a thread each; 0 trains nothing and adds up what is finished",
    )
    parser.add_argument("--quiet", action="store_true", help="no tables and no results files")
    return parser.parse_args(arguments)


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


def _rounded(value: Any) -> Any:
    """Six significant digits: a record is to be kept in the repository."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) and np.isfinite(value) else value


if __name__ == "__main__":
    raise SystemExit(main())
