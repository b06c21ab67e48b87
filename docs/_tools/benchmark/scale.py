"""From some scans to a million: time and place a scan, a folder's listing, workers side by side.

Each number of scans is labelled in a process of its own. What a million would take is the slope
between the smallest and the largest number that was measured, times a million: a straight line
that nobody walked. Seconds are the processor's, so that a machine's other work does not count.
"""

import multiprocessing
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import growth
import keras
from common import peak_memory, row

import kdcore

NAMES = (1_000, 10_000, 100_000)
MILLION = 1_000_000
DAY = 24 * 3600


def measure(counts: tuple[int, ...], folder: Path) -> list[dict[str, Any]]:
    labelled = []
    for count in counts:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            labelled.append(pool.apply(label, (count, folder / str(count))))
        print(f"  {count} scans: {labelled[-1]}", flush=True)
    few, many = counts[0], counts[-1]
    first, last = labelled[0], labelled[-1]

    def a_scan(what: str) -> float:
        return (last[what] - first[what]) / (many - few)

    rows = [
        row("label_a_scan", "ms of CPU", [1000 * a_scan("label")]),
        row("open_a_scan", "ms of CPU", [1000 * a_scan("open")]),
        row("bytes_a_voxel", "B", [last["bytes"] / last["voxels"]]),
        row(f"memory_{many}_over_{few}", "ratio", [last["memory"] / first["memory"]]),
        row(f"open_files_{many}", "files", [last["files"]]),
        row("million_labelled", "CPU days", [MILLION * a_scan("label") / DAY]),
        row("million_opened", "CPU minutes", [MILLION * a_scan("open") / 60]),
        *_listing(folder / "names"),
    ]
    return [*rows, *_workers(folder)] if find_spec("ray") else rows


def _teacher(shape: tuple[int, int] = growth.SHAPE, filters: int = 2) -> keras.Model:
    keras.utils.set_random_seed(0)
    teacher = kdcore.unet((*shape, 4), 3, filters=filters, depth=2)
    teacher.compile(jit_compile=False)
    return teacher


def _cases(count: int, folder: Path, spacing_mm: float = 6.0) -> list[kdcore.Case]:
    simulation = kdcore.Simulation(spacing_mm=spacing_mm)
    folder.mkdir(parents=True, exist_ok=True)
    subjects = kdcore.simulate_cases(min(count, 20), simulation=simulation, folder=folder)
    return growth.scans(count, subjects, folder)


def label(count: int, folder: Path) -> dict[str, float]:
    """Seconds of the processor, bytes and files of so many scans."""
    cases, teacher, soft = _cases(count, folder / "scans"), _teacher(), folder / "soft"
    kdcore.SoftTargets.write(teacher, cases[:1], folder / "warm")
    start = time.process_time()
    kdcore.SoftTargets.write(teacher, cases, soft)
    end = time.process_time()
    kdcore.SoftTargets.open(soft, teacher=teacher)
    opened = time.process_time()
    return {
        "label": end - start,
        "open": opened - end,
        "bytes": sum(path.stat().st_size for path in soft.iterdir()),
        "voxels": sum(case.image[..., 0].size for case in cases),
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()) - len(cases),
        "memory": peak_memory(),
    }


def _listing(folder: Path) -> list[dict[str, Any]]:
    """Seconds to list folders of so many soft targets, by their names alone."""
    folder.mkdir(parents=True)
    targets, made, seconds = kdcore.SoftTargets(folder, {}), 0, []
    for count in NAMES:
        for number in range(made, count):
            (folder / f"scan-{number:07d}.npy").touch()
            (folder / f"scan-{number:07d}.json").touch()
        made = count
        start = time.process_time()
        assert len(list(targets)) == count
        seconds.append(time.process_time() - start)
    slope = (seconds[-1] - seconds[0]) / (NAMES[-1] - NAMES[0])
    return [
        row(f"listing_{NAMES[-1]}", "s of CPU", [seconds[-1]]),
        row("million_listed", "s of CPU", [MILLION * slope]),
    ]


def _workers(folder: Path) -> list[dict[str, Any]]:
    """Seconds of a case by Ray's workers, one and two, each after its start.

    Scans of 3 mm and a teacher that takes some tenths of a second for one: with smaller ones
    this process, which reads the scans and writes the folder for all, would be what is timed.
    """
    import ray

    seconds: dict[int, list[float]] = {1: [], 2: []}
    cases = _cases(60, folder / "of-workers", spacing_mm=3.0)
    for turn, count in enumerate((1, 2, 1, 2)):  # machines switch between speeds
        ray.init("local", num_cpus=count, log_to_driver=False, logging_level="ERROR")
        moments, teacher = [], _teacher((64, 56), filters=16)

        def watched(moments: list[float] = moments) -> Any:
            for case in cases:
                moments.append(time.perf_counter())
                yield case

        kdcore.SoftTargets.write(teacher, watched(), folder / f"by-{turn}", ray="local")
        ray.shutdown()
        late = moments[len(moments) // 4 :]  # all workers have begun
        seconds[count].append((late[-1] - late[0]) / (len(late) - 1))
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return [
        row("label_a_scan_one_worker", "ms", [1000 * one for one in seconds[1]]),
        row("two_workers_over_one", "ratio", ratios),
    ]
