"""What all parts of the benchmark share: data, networks, timing in turns, rows."""

import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kdcore
from kdcore._files import digest
from kdcore.evaluation.tables import markdown

BATCH = 16
TEMPERATURE, ALPHA, RATE = 2.0, 0.5, 1e-2
TARGETS = {
    "kd_step_from_disk_over_plain": "≤ 1.05",
    "kd_step_online_over_parts": "≤ 1.05",
    "job_over_keras_distillation": "≤ 0.6",
    "job_over_pytorch": "< 1",
    "memory_10000_over_100": "≤ 1.1",
    "time_slope_100_to_10000": "≤ 1.05",
    "teacher_share_of_peak": "≥ 0.6",
    "slices_over_prototype": "≥ 3",
    "two_workers_over_one": "≥ 1.8",
    "two_runs_kdcore_over_prototype": "≥ 3",
    "student_over_teacher_throughput": "≥ 10",
    "browser_student": "≤ 10",
}


@dataclass(frozen=True)
class Size:
    """How much is measured. `SHORT` is for a look at the ratios after a change."""

    shape: tuple[int, int] = (64, 48)
    teacher_filters: int = 24
    student_filters: int = 4
    depth: int = 3
    train_cases: int = 100
    test_cases: int = 60
    teacher_steps: int = 1200
    student_steps: int = 2000
    job_steps: int = 600
    seeds: int = 5
    repeats: int = 11
    chunk: int = 50  # steps that are timed together
    growth: tuple[int, ...] = (100, 1000, 10_000)
    scale: tuple[int, ...] = (100, 1000)
    short: bool = False


FULL = Size()
SHORT = Size(
    train_cases=12,
    test_cases=4,
    teacher_steps=20,
    job_steps=40,
    seeds=2,
    repeats=3,
    chunk=20,
    growth=(20, 40, 80),
    scale=(50, 250),
    short=True,
)


_ONLY_MEASURED = ("job_steps", "seeds", "repeats", "growth", "scale")  # what no network depends on


class Setting:
    """Hippocampus volumes, all labelled, and one trained teacher with its soft targets.

    The short form downloads nothing: without the volumes it takes simulated scans.
    """

    def __init__(self, size: Size, folder: Path, data_dir: str | None) -> None:
        self.size, self.folder = size, folder
        trained = {k: v for k, v in asdict(size).items() if k not in _ONLY_MEASURED}
        if size.short and not (data_dir or os.environ.get("KDCORE_DATA")):
            simulated = kdcore.simulate_cases(size.train_cases + size.test_cases, seed=0)
            cases = [case.select(["T1"]) for case in simulated]
            trained["data"] = "simulated"
        else:
            cases = kdcore.read_msd(kdcore.hippocampus_folder(data_dir))
        self.tag = digest(trained)[:8]
        self.train = cases[: size.train_cases]
        self.test = cases[-size.test_cases :]

    def batches(
        self,
        seed: int = 0,
        soft_targets: Any = None,
        chunk: int | None = None,
        batch_size: int = BATCH,
    ) -> Any:
        """The same for every method: crops, augmentation, order."""
        return kdcore.Batches(
            self.train,
            self.size.shape,
            batch_size,
            soft_targets=soft_targets,
            augmentation=kdcore.Augmentation(),
            num_batches=chunk or self.size.chunk,
            seed=seed,
        )

    def student(self, seed: int = 0) -> keras.Model:
        keras.utils.set_random_seed(seed)
        return kdcore.unet(
            (*self.size.shape, 1), 3, self.size.student_filters, self.size.depth, "student"
        )

    def teacher(self) -> keras.Model:
        """Trained once, then read."""
        path = self.folder / f"teacher-{self.tag}.keras"
        if not path.exists():
            keras.utils.set_random_seed(0)
            model = kdcore.unet(
                (*self.size.shape, 1), 3, self.size.teacher_filters, self.size.depth, "teacher"
            )
            fit(
                compiled(model, self.size.teacher_steps, 3e-3),
                self.batches(),
                self.size.teacher_steps,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            model.save(path)
        model = keras.saving.load_model(path, compile=False)
        model.compile(jit_compile=False)  # of `predict`
        return model

    def soft_targets(self, folder: Path | None = None) -> kdcore.SoftTargets:
        folder = folder or self.folder / f"soft-{self.tag}"
        return kdcore.SoftTargets.write(self.teacher(), self.train, folder)

    def labelling(self) -> tuple[float, int]:
        """Seconds to write all soft targets anew, and their bytes."""
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            self.soft_targets(Path(folder))
            seconds = time.perf_counter() - start
            return seconds, sum(path.stat().st_size for path in Path(folder).iterdir())


def setting_of(arguments: list[str]) -> Setting:
    """The setting that a worker's command line asks for."""
    values = dict(pairwise(arguments))
    size = SHORT if "--short" in arguments else FULL
    return Setting(size, Path(values["--folder"]), values.get("--data-dir"))


class Worker:
    """A script in a process of its own: a line in, a line of JSON out."""

    def __init__(self, script: str, *arguments: str, **limits: str) -> None:
        self.process: Any = subprocess.Popen(  # noqa: S603
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits},
        )

    def tell(self, line: object) -> None:
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}.")

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def schedule(steps: int, rate: float = RATE) -> Any:
    warmup = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), alpha=0.01, warmup_target=rate, warmup_steps=warmup
    )


def compiled(model: keras.Model, steps: int, rate: float = RATE) -> keras.Model:
    """All Keras methods alike: XLA is slower on a CPU, and 25 steps are one call."""
    model.compile(
        keras.optimizers.Adam(schedule(steps, rate)),
        loss=kdcore.DiceCrossEntropy(),
        steps_per_execution=25,
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    return model


def fit(model: keras.Model, batches: Any, steps: int) -> None:
    epochs = max(1, steps // batches.num_batches)
    model.fit(batches, epochs=epochs, verbose=0, shuffle=False)


def mean_dice(network: Any, cases: list[kdcore.Case]) -> float:
    """Over labels and cases."""
    masks = ((case.mask, kdcore.predict_mask(network, case)) for case in cases)
    return float(np.nanmean([[kdcore.dice(*pair, label) for label in (1, 2)] for pair in masks]))


def peak_memory() -> float:
    """Of this process so far, in GiB.

    `ru_maxrss` would start with the parent's; Linux' own high-water mark starts anew.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def in_turns(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each job in each round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for round_number in range(repeats + 1):
        for name, job in jobs.items():
            gc.collect()
            start = time.perf_counter()
            job()
            if round_number:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}


def row(name: str, unit: str, values: Any) -> dict[str, Any]:
    low, middle, high = np.percentile(np.asarray(values, float), (0, 50, 100))
    return {"name": name, "unit": unit, "min": low, "median": middle, "max": high}


def table(rows: list[dict[str, Any]]) -> str:
    header = ["row", "unit", "min", "median", "max", "target"]
    lines = [
        [
            r["name"],
            r["unit"],
            *(f"{r[key]:.3g}" for key in ("min", "median", "max")),
            TARGETS.get(r["name"], ""),
        ]
        for r in rows
    ]
    return markdown(header, lines)
