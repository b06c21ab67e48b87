"""The runs of a study, done one after the other by as many processes as there are."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
from filelock import Timeout

from kdcore._files import lock, read_sealed, write_json
from kdcore.evaluation import tables
from kdcore.study import results
from kdcore.study.experiment import Experiment, train

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


def work(jobs: Sequence[Job], most: int | None = None) -> None:
    """Do the jobs that have no record, or so many of them.

    Those that another process has in hand are left to it.
    """
    start, before = time.monotonic(), {job.name for job in jobs if job.done}
    print(f"{len(before)} of {len(jobs)} runs are finished.", flush=True)
    waiting, own = False, 0
    while own != most and (left := [job for job in jobs if not job.done]):
        taken = next((job for job in left if _ready(job, left) and _attempt(job)), None)
        if taken is None:
            if not waiting:
                print("Another process has in hand what could be done next; waiting.", flush=True)
            waiting = True
            time.sleep(1)
            continue
        waiting, own = False, own + 1
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


def _rounded(value: Any) -> Any:
    """Six significant digits: more of a measurement say nothing, and a study has many."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) and np.isfinite(value) else value
