"""The runs of a study: one after the other, or side by side on the workers of Ray."""

import math
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore._cluster import alike, compare, environment
from kdcore._files import lock, read_sealed, write_json
from kdcore.evaluation import tables
from kdcore.study import results
from kdcore.study.experiment import Experiment, train

RUNS_A_PROCESS = 20
"""TensorFlow keeps the graph of every training until its process ends: about 33 MB each."""

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

    @property
    def needs(self) -> list[tuple[tuple[int, int, int], str]]:
        """Group and arm of the jobs that must be done before."""
        return [(self.group, arm) for arm in self.experiment.training(self.arm).needs]

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
        """Train, evaluate, keep the record, unless it is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.done:
            kept = results.record(train(self.experiment, self.arm), self.experiment.task)
            write_json(self.path, {**_rounded(kept), "key": self.key}, indent=None, sealed=True)


def work(jobs: Sequence[Job], most: int | None = None) -> None:
    """Do the jobs that have no record one after the other, or so many of them.

    They stand in an order in which none needs a later one. What another process has in hand is
    waited for.
    """
    progress, own = _Progress(jobs), 0
    for job in jobs:
        if own == most:
            return
        if not job.done:
            with lock(job.experiment.root / job.path.stem):
                if job.done:
                    continue
                job.run()
            keras.utils.clear_session()
            own += 1
            progress.tell(job)


def work_together(
    ray: Any, jobs: Sequence[Job], *, num_cpus: float = 1, num_gpus: float = 0
) -> None:
    """Do them as tasks of a Ray cluster whose machines share the folders of runs and records.

    A task waits for those it needs, and one whose worker died is given to another, where it goes
    on from its last epoch. A process ends after `RUNS_A_PROCESS` runs.

    Args:
        ray: From `connected`.
        jobs: In an order in which none needs a later one; with absolute paths.
        num_cpus: Of each run.
        num_gpus: Of each run.

    Raises:
        ConnectionError: If a worker has other versions or other data, or shares no folder.
    """
    progress, here = _Progress(jobs), alike()
    task = ray.remote(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        max_calls=1 if num_gpus else RUNS_A_PROCESS,  # the next run may be given another GPU
        runtime_env=environment(num_cpus),
    )(_run_there)
    tasks: dict[tuple[Any, str], Any] = {}
    for job in jobs:
        if not job.done:
            job.path.parent.mkdir(parents=True, exist_ok=True)
            before = [tasks[n] for n in job.needs if n in tasks]
            tasks[job.group, job.arm] = task.remote(job, job.key, here, *before)
    names = {ref: job for job in jobs if (ref := tasks.get((job.group, job.arm))) is not None}
    while names:
        for ref in ray.wait(list(names))[0]:
            job = names.pop(ref)
            try:
                ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                said = str(error).strip().splitlines()[-1]
                raise ConnectionError(f"{job.name} was lost with its workers: {said}") from error
            if not job.done:
                raise ConnectionError(_not_shared(job.path.parent, "a worker"))
            progress.tell(job)


def _run_there(job: Job, key: str, here: dict[str, str], *before: None) -> None:
    """On a worker: a run of the same versions, with the same data, into the same folder."""
    host = socket.gethostname()
    compare(here, alike(), host)
    if not job.path.parent.is_dir():
        raise ConnectionError(_not_shared(job.path.parent, host))
    own = job.experiment
    _share_data(own)
    if own.key(job.arm) != key:
        raise ConnectionError(
            f"{job.name}: the worker on {host} has other data than this machine (their digests "
            "differ): look at --data-dir, KDCORE_DATA, its cache. Copy them there, or share them."
        )
    with lock(own.root / job.path.stem):
        job.run()
    keras.utils.clear_session()


_READ: dict[Any, Experiment] = {}


def _share_data(experiment: Experiment) -> None:
    """A process of the cluster reads the data once for all its runs."""
    of = (experiment.config.task, experiment.config.num_cases, str(experiment.data_dir))
    experiment.share_data(_READ.setdefault(of, experiment))


def _not_shared(folder: Path, host: str) -> str:
    return (
        f"{folder} is not one folder for all: {host} does not see what is there. Give --runs and "
        "--records as folders that all machines share."
    )


class _Progress:
    """Tells what is finished, and how long the rest will take."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs, self.start = jobs, time.monotonic()
        self.before = {job.name for job in jobs if job.done}
        print(f"{len(self.before)} of {len(jobs)} runs are finished.", flush=True)

    def tell(self, job: Job) -> None:
        done = [other for other in self.jobs if other.done]
        costs = _costs(self.jobs, done)
        new = sum(costs[other.name] for other in done if other.name not in self.before)
        to_do = sum(costs[other.name] for other in self.jobs if other not in done)
        minutes = math.ceil((time.monotonic() - self.start) * to_do / new / 60)
        dice = tables.number(job.record()["validation_dice"], ".3f")
        told = f"; about {minutes} minutes left" if to_do else ""
        count = f"{len(done)} of {len(self.jobs)} runs"
        print(f"{job.name}: validation Dice {dice}. {count}{told}", flush=True)


def _costs(jobs: Sequence[Job], done: Sequence[Job]) -> dict[str, float]:
    """What each takes, one beside the other: by its arm, of an unknown arm the mean of all."""
    seconds: dict[str, list[float]] = {}
    for job in done:
        seconds.setdefault(job.arm, []).append(job.record().get("training_seconds") or 1.0)
    mean = float(np.mean([value for values in seconds.values() for value in values]))
    return {job.name: float(np.mean(seconds.get(job.arm, mean))) for job in jobs}


def _rounded(value: Any) -> Any:
    """Six significant digits: more of a measurement say nothing, and a study has many."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) and np.isfinite(value) else value
