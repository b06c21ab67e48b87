"""Does the way of the data stay flat in memory and linear in time, to 10,000 scans?

Each number of scans is a process of its own. Scans have voxels of 6 mm and lie on disk, one file
each; they are labelled by a small teacher and drawn once in batches. A hundred are simulated,
further ones are those with another intensity scale and without a mask, as most scans are.
(A simulated scan's cost cannot depend on how many there are and would hide everything else.)
"""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import peak_memory, row

import kdcore
from kdcore._files import open_array

SHAPE = (32, 28)
SUBJECTS = 100


def measure(counts: tuple[int, ...], folder: Path) -> list[dict[str, Any]]:
    results = []
    for count in counts:
        command = [sys.executable, __file__, str(count), str(folder)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"  {count} scans: {results[-1]}", flush=True)
    first, last = results[0], results[-1]
    many, few = counts[-1], counts[0]
    phases = [key for key in first if key != "memory"]
    slope = {
        key: np.polyfit(np.log(counts), np.log([r[key] for r in results]), 1)[0] for key in phases
    }
    return [
        row(f"memory_{many}_over_{few}", "ratio", [last["memory"] / first["memory"]]),
        row(f"time_slope_{few}_to_{many}", "exponent", [slope["all"]]),
        *(row(f"time_slope_{key}", "exponent", [slope[key]]) for key in phases if key != "all"),
        *(row(f"{key}_{many}", "ms a scan", [1000 * last[key] / many]) for key in phases),
        row(f"peak_memory_{many}", "GiB", [last["memory"]]),
    ]


def walk(count: int, folder: Path) -> dict[str, float]:
    simulation = kdcore.Simulation(spacing_mm=6.0)
    subjects = kdcore.simulate_cases(SUBJECTS, simulation=simulation, folder=folder / "scans")
    seconds = {}
    start = last = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal last
        seconds[name], last = time.perf_counter() - last, time.perf_counter()

    cases = scans(count, subjects, folder / "scans")
    lap("write")
    teacher = kdcore.unet((*SHAPE, 4), 3, filters=2, depth=2)
    teacher.compile(jit_compile=False)
    targets = kdcore.SoftTargets.write(teacher, cases, folder / f"soft-{count}")
    lap("label")
    batches = kdcore.Batches(cases, SHAPE, soft_targets=targets)
    lap("open")
    for index in range(len(batches)):
        batches[index]
    lap("read")
    seconds["all"] = time.perf_counter() - start
    shutil.rmtree(folder / f"soft-{count}")
    shutil.rmtree(folder / "scans")
    seconds["memory"] = peak_memory()
    return seconds


def scans(count: int, subjects: list[kdcore.Case], folder: Path) -> list[kdcore.Case]:
    """So many scans on disk, memory-mapped."""
    cases = []
    for index in range(count):
        subject, case_id = subjects[index % len(subjects)], f"scan-{index:05d}"
        np.save(folder / f"{case_id}.npy", subject.image * np.float32(1 + index / count))
        image = open_array(folder / f"{case_id}.npy")
        mask = subject.mask if index < len(subjects) else None
        cases.append(replace(subject, case_id=case_id, image=image, mask=mask))
    return cases


if __name__ == "__main__":
    print(json.dumps(walk(int(sys.argv[1]), Path(sys.argv[2]))))
