"""Milliseconds a step, in turns: training with and without a teacher, and its parts."""

from functools import partial
from typing import Any

import keras
import numpy as np
from common import BATCH, Setting, compiled, fit, in_turns, row
from methods import METHODS

from kdcore.evaluation.cost import count_macs


def measure(setting: Setting) -> list[dict[str, Any]]:
    size, chunk = setting.size, setting.size.chunk
    trained = {
        name: method(setting, 0, 10 * chunk)
        for name, method in METHODS.items()
        if not (size.short and name == "torchdistill")
    }
    teacher = setting.teacher()
    images, _ = setting.batches()[0]
    plain, soft = setting.batches(), trained["kdcore"].batches

    def forward() -> None:
        for _ in range(chunk):
            teacher.predict_on_batch(images)

    times = in_turns(
        {name: partial(method.run, chunk) for name, method in trained.items()}
        | {
            "forward": forward,
            "pipeline": lambda: [plain[i] for i in range(chunk)],
            "soft pipeline": lambda: [soft[i] for i in range(chunk)],
        },
        size.repeats,
    )
    ms = {name: 1000 * values / chunk for name, values in times.items()}
    base = ms["plain"]
    rows = [row("plain_step", "ms", base)]
    rows += [
        row(f"{name}_step_over_plain", "ratio", ms[method] / base)
        for name, method in (
            ("kd_online", "online"),
            ("keras_distillation", "keras"),
            ("pytorch", "pytorch"),
            ("torchdistill", "torchdistill"),
        )
        if method in ms
    ]
    rows += [
        row("kd_step_from_disk_over_plain", "ratio", ms["kdcore"] / base),
        row("kd_step_online_over_parts", "ratio", ms["online"] / (base + ms["forward"])),
        row("slices_a_second", "1/s", 1000 * BATCH / base),
        row("slices_over_prototype", "ratio", ms["prototype"] / base),
        row("pipeline_over_plain", "ratio", ms["pipeline"] / base),
        row("soft_pipeline_over_plain", "ratio", ms["soft pipeline"] / base),
    ]
    if size.short:
        return rows
    return [
        *rows,
        row("slices_over_prototype_batch_64", "ratio", _large_batch(setting, trained)),
        *_disk(setting),
        *_share_of_peak(setting),
    ]


def _large_batch(setting: Setting, trained: dict[str, Any]) -> np.ndarray:
    """The prototype's time a slice over ours with 64 slices a step."""
    chunk, batches = setting.size.chunk, setting.batches(chunk=25, batch_size=64)
    model = compiled(setting.student(), 1000)
    times = in_turns(
        {
            "large": lambda: fit(model, batches, 25),
            "prototype": lambda: trained["prototype"].run(chunk),
        },
        setting.size.repeats,
    )
    return (times["prototype"] / chunk / BATCH) / (times["large"] / 25 / 64)


def _disk(setting: Setting) -> list[dict[str, Any]]:
    """Time and place that soft targets take."""
    seconds, written = setting.labelling()
    count = len(setting.train)
    return [
        row("soft_targets_written", "ms a volume", [1000 * seconds / count]),
        row("soft_targets_size", "MB a volume", [written / count / 1e6]),
    ]


def _share_of_peak(setting: Setting) -> list[dict[str, Any]]:
    """Arithmetic of the teacher's training step beside that of a large matrix product."""
    matrix = keras.random.normal((2048, 2048))
    product = keras.ops.matmul
    fitted = compiled(setting.teacher(), 1000, 1e-5)
    batches, steps = setting.batches(chunk=25), 25

    def multiply() -> None:
        for _ in range(10):
            keras.ops.convert_to_numpy(product(matrix, matrix)[:1, :1])

    times = in_turns(
        {"step": lambda: fit(fitted, batches, steps), "matrix": multiply}, setting.size.repeats
    )
    # Forward, gradient of the input, gradient of the weights; two operations each.
    operations = 6 * count_macs(fitted) * BATCH
    achieved = operations * steps / times["step"] / 1e9
    peak = 10 * 2 * 2048**3 / times["matrix"] / 1e9
    return [
        row("matrix_product_peak", "GFLOP/s", peak),
        row("teacher_step", "GFLOP/s", achieved),
        row("teacher_share_of_peak", "ratio", achieved / peak),
    ]
