"""What distillation costs: `nox -s bench`. Ratios within one run, min, median, max.

Machines are shared and noisy, so every pair of things is timed in turns, and what is
reported is their ratio.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore.augmentation import Augmentation
from kdcore.batches import Batches
from kdcore.cases import Case
from kdcore.datasets import hippocampus_folder
from kdcore.distiller import Distiller
from kdcore.files import write_json
from kdcore.hard_losses import DiceCrossEntropy
from kdcore.normalization import normalize
from kdcore.reading import read_msd
from kdcore.results import markdown
from kdcore.runs import provenance
from kdcore.soft_targets import SoftTargets
from kdcore.unet import unet

SHAPE = (64, 48)
STEPS = 50
TARGETS = {
    "kd_step_from_disk_over_plain": 1.10,
    "pipeline_over_student_step": 1.0,
    "prepare_200_volumes": 20.0,
    "peak_memory": 4.0,
}


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, and write it as JSON."""
    parser = argparse.ArgumentParser(description="Cost of distillation, as ratios.")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default=None, help="JSON file for the rows")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    folder = hippocampus_folder(options.data_dir)
    seconds, cases = _prepare(folder)
    rows = [_row("prepare_200_volumes", "s for 200", [seconds * 200 / len(cases)])]
    with tempfile.TemporaryDirectory() as temporary:
        rows += _steps(cases, Path(temporary), options.repeats)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    rows.append(_row("peak_memory", "GiB", [peak]))
    _show(rows)
    if options.out:
        write_json(options.out, {"rows": rows, **provenance()})
    return 0


def _prepare(folder: Path) -> tuple[float, list[Case]]:
    start = time.perf_counter()
    cases = read_msd(folder)
    for case in cases:
        normalize(case.image)
    return time.perf_counter() - start, cases


def _steps(cases: list[Case], folder: Path, repeats: int) -> list[dict[str, Any]]:
    teacher = unet((*SHAPE, 1), 3, filters=16)
    start = time.perf_counter()
    soft_targets = SoftTargets.write(teacher, cases[:64], folder)
    labelling = 1000 * (time.perf_counter() - start) / 64
    augmentation = Augmentation()
    plain_batches = Batches(cases[:64], SHAPE, augmentation=augmentation, num_batches=STEPS)
    soft_batches = Batches(
        cases[:64], SHAPE, soft_targets=soft_targets, augmentation=augmentation,
        num_batches=STEPS,
    )  # fmt: skip
    jobs = {
        "plain": _fit(_compiled(unet((*SHAPE, 1), 3, filters=4)), plain_batches),
        "disk": _fit(_compiled(Distiller(unet((*SHAPE, 1), 3, filters=4))), soft_batches),
        "online": _fit(
            _compiled(Distiller(unet((*SHAPE, 1), 3, filters=4), teacher)), plain_batches
        ),
        "teacher forward": lambda: _forward(teacher),
        "pipeline": lambda: _read(plain_batches),
        "soft pipeline": lambda: _read(soft_batches),
    }
    times = _in_turns(jobs, repeats)
    parts = times["plain"] + times["teacher forward"]
    return [
        _row("plain_step", "ms", 1000 * times["plain"] / STEPS),
        _row("kd_step_from_disk_over_plain", "ratio", times["disk"] / times["plain"]),
        _row("kd_step_online_over_plain", "ratio", times["online"] / times["plain"]),
        _row("kd_step_online_over_parts", "ratio", times["online"] / parts),
        _row("pipeline_over_student_step", "ratio", times["pipeline"] / times["plain"]),
        _row("soft_pipeline_over_student_step", "ratio", times["soft pipeline"] / times["plain"]),
        _row("label_one_volume", "ms", [labelling]),
    ]


def _compiled(model: keras.Model) -> keras.Model:
    model.compile(
        keras.optimizers.AdamW(1e-3),
        loss=DiceCrossEntropy(),
        steps_per_execution=25,
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )
    return model


def _fit(model: keras.Model, batches: Batches) -> Callable[[], object]:
    return lambda: model.fit(batches, verbose=0, shuffle=False)


def _forward(teacher: keras.Model) -> None:
    images = np.zeros((16, *SHAPE, 1), np.float32)
    for _ in range(STEPS):
        teacher.predict_on_batch(images)


def _read(batches: Batches) -> None:
    for index in range(STEPS):
        batches[index]


def _in_turns(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each job in each round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for round_number in range(repeats + 1):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            if round_number:
                times[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in times.items()}


def _row(name: str, unit: str, values: Any) -> dict[str, Any]:
    low, middle, high = np.percentile(np.asarray(values, float), (0, 50, 100))
    return {"name": name, "unit": unit, "min": low, "median": middle, "max": high}


def _show(rows: list[dict[str, Any]]) -> None:
    table = [
        [
            row["name"],
            row["unit"],
            *(f"{row[key]:.3g}" for key in ("min", "median", "max")),
            f"≤ {TARGETS[row['name']]:g}" if row["name"] in TARGETS else "",
        ]
        for row in rows
    ]
    print(markdown(["row", "unit", "min", "median", "max", "target"], table))


if __name__ == "__main__":
    raise SystemExit(main())
