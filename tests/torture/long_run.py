"""Many runs in one process: Python's objects and open files stay flat, Keras forgets."""

import gc
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import keras
import numpy as np
from torture.common import Count, coarse, unless

from kdcore.study import __main__ as study
from kdcore.study import settings as config
from kdcore.study.experiment import Experiment

MOST_MB = 1.5
"""Growth a run, over the second half. TensorFlow never frees the copies of an XLA-compiled
function's graph, about 5 kB an operation, that each training which calls it leaves behind."""
MOST_OBJECTS = 1.0
"""Growth a run of what Python's garbage collector knows; a training that is kept has 30,000."""


def main(short: bool, seed: int, folder: Path) -> list[Count]:
    """200 runs; 8 in the short form, which are too few to say much about memory."""
    runs, memory, objects, files = Count("smoke runs in one process"), [], [], []
    gc.freeze()  # what the imports made is not looked through after each run
    with coarse(folder / "cache"):
        for number, job in enumerate(islice(_jobs(folder, seed), 8 if short else 200)):
            study.work([job])
            runs.add(unless(job.done, f"{job.name} has no record"))
            if number % 2:
                memory.append(_memory_mb())
                objects.append(_objects())
                files.append(_open_files())
    flat = Count("memory, objects, open files and Keras' state flat over the second half")
    half = len(memory) // 2
    mb, more = _slope(memory[half:]) / 2, _slope(objects[half:]) / 2
    flat.measured = (
        f"{mb:+.2f} MB and {more:+.2f} objects a run, "
        f"{memory[-1]:.0f} MB and {files[-1]} files in the end"
    )
    flat.add(unless(short or mb <= MOST_MB, f"memory grew by {mb:.2f} MB a run"))
    flat.add(unless(short or more <= MOST_OBJECTS, f"{more:.2f} objects more a run"))
    flat.add(unless(files[-1] <= files[half], f"{files[half]} open files became {files[-1]}"))
    name = keras.layers.Conv2D(1, 1).name
    flat.add(unless(name == "conv2d", f"Keras counts its layers on: {name}"))
    return [runs, flat]


def _jobs(folder: Path, seed: int) -> Iterator[study.Job]:
    """A teacher, its student and 18 baselines a seed, each as small as can be."""
    smoke = config.STUDIES["main"]["simulated"]["smoke"]
    small = {name: replace(arm, steps=2, filters=2) for name, arm in smoke.arms.items()}
    arms = {name: small[name] for name in ("teacher", "student")}
    arms |= {f"baseline-{n}": replace(small["baseline"], member=n) for n in range(18)}
    few = replace(smoke, arms=arms, num_cases=5, num_validation=1, num_test=1)
    base = Experiment(few, "long", folder / "runs")
    for experiment in map(base.with_seed, count(seed)):
        yield from (study.Job(experiment, arm, folder / "records") for arm in arms)


def _slope(values: list[float]) -> float:
    return float(np.polyfit(np.arange(len(values)), values, 1)[0])


def _objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def _memory_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
