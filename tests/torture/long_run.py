"""Many runs in one process: memory and open files stay flat, Keras forgets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
from torture.common import Count, coarse, unless

from kdcore import config, study
from kdcore.experiment import Experiment

MOST_MB = 0.5
"""Growth a run, over the second half of the runs."""


def main(short: bool, seed: int, folder: Path) -> list[Count]:
    """200 runs; 8 in the short form, which are too few to say much about memory."""
    count, memory, files = Count("smoke runs in one process"), [], []
    with coarse(folder / "cache"):
        for job in _jobs(folder, range(seed, seed + (1 if short else 25))):
            study.work([job])
            count.add(unless(job.done, f"{job.name} has no record"))
            memory.append(_memory_mb())
            files.append(_open_files())
    flat = Count("memory, open files and Keras' state flat over the second half")
    half = len(memory) // 2
    slope = float(np.polyfit(np.arange(len(memory) - half), memory[half:], 1)[0])
    flat.measured = f"{slope:+.2f} MB a run, {memory[-1]:.0f} MB and {files[-1]} files in the end"
    flat.add(unless(short or slope <= MOST_MB, f"memory grew by {slope:.2f} MB a run"))
    flat.add(unless(files[-1] <= files[half], f"{files[half]} open files became {files[-1]}"))
    name = keras.layers.Conv2D(1, 1).name
    flat.add(unless(name == "conv2d", f"Keras counts its layers on: {name}"))
    return [count, flat]


def _jobs(folder: Path, seeds: range) -> Iterator[study.Job]:
    """A teacher, its student and six baselines a seed, each as small as can be."""
    smoke = config.STUDIES["main"]["simulated"]["smoke"]
    small = {name: replace(arm, steps=2, filters=2) for name, arm in smoke.arms.items()}
    arms = {name: small[name] for name in ("teacher", "student")}
    arms |= {f"baseline-{n}": replace(small["baseline"], member=n) for n in range(6)}
    base = Experiment(replace(smoke, arms=arms, num_cases=8), "long", folder / "runs")
    for seed in seeds:
        experiment = base.with_seed(seed)
        yield from (study.Job(experiment, arm, folder / "records") for arm in arms)


def _memory_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
