"""The student at work: Keras, ONNX Runtime and LiteRT, one thread and two, three precisions.

Each number of threads is a process of its own, since TensorFlow takes its number once.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Setting, compiled, fit, in_turns, mean_dice, row
from methods import Kdcore

import kdcore

BATCH = 32  # about the slices of one volume


def measure(setting: Setting, arguments: list[str]) -> list[dict[str, Any]]:
    networks = _networks(setting)
    _export(setting, networks)
    rows = [row(f"dice_{name}_keras", "Dice", [_dice(setting, n)]) for name, n in networks.items()]
    rows += [
        row(f"dice_{path.stem}_{path.suffix[1:]}", "Dice", [_dice(setting, path)])
        for path in sorted(_folder(setting).glob("*.*"))
        if path.suffix in (".onnx", ".tflite")
    ]
    rows += [
        row(f"size_{path.stem}_{path.suffix[1:]}", "MB", [path.stat().st_size / 1e6])
        for path in sorted(_folder(setting).glob("*.*"))
        if path.suffix in (".onnx", ".tflite")
    ]
    for threads in (1, 2):
        command = [sys.executable, __file__, str(threads), *arguments]
        limits = {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": "1"}
        done = subprocess.run(  # noqa: S603
            command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **limits}
        )
        rows += json.loads(done.stdout.splitlines()[-1])
    return rows


def _folder(setting: Setting) -> Path:
    return setting.folder / "exported"


def _networks(setting: Setting) -> dict[str, Any]:
    """The teacher, and a student distilled from it as long as in the main job."""
    path = setting.folder / "exported" / f"student-{setting.tag}.keras"
    if not path.exists():
        method = Kdcore(setting, 0, setting.size.student_steps)
        method.model = compiled(method.model, setting.size.student_steps, 2e-2)
        fit(method.model, method.batches, setting.size.student_steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        method.network.save(path)
    student = common.keras.saving.load_model(path, compile=False)
    student.compile(jit_compile=False)
    return {"teacher": setting.teacher(), "student": student}


def _export(setting: Setting, networks: dict[str, Any]) -> None:
    images = np.concatenate([setting.batches(seed=1)[i][0] for i in range(16)])
    for name, network in networks.items():
        kdcore.export(network, _folder(setting) / f"{name}.onnx")
        for precision in ("float32", "float16", "int8"):
            kdcore.export(
                network,
                _folder(setting) / f"{name}-{precision}.tflite",
                batch_size=BATCH,
                precision=precision,
                calibration=images if precision == "int8" else None,
            )


def _dice(setting: Setting, network: Any) -> float:
    network = kdcore.load_exported(network, 2) if isinstance(network, Path) else network
    return mean_dice(network, setting.test)


def main() -> None:
    """Time every file with one number of threads."""
    threads, setting = int(sys.argv[1]), common.setting_of(sys.argv[2:])
    images = np.concatenate([setting.batches(seed=1)[i][0] for i in range(2)])
    networks = _networks(setting)
    runs = {
        f"{path.stem.split('-')[0]}_{_runtime(path)}": kdcore.load_exported(path, threads)
        for path in sorted(_folder(setting).glob("*.*"))
        if path.suffix in (".onnx", ".tflite")
    } | {f"{name}_keras": network for name, network in networks.items()}

    def job(network: Any) -> Any:
        return lambda: [network.predict_on_batch(images) for _ in range(3)]

    times = in_turns({name: job(network) for name, network in runs.items()}, setting.size.repeats)
    ms = {name: 1000 * values / 3 / len(images) for name, values in times.items()}
    tag = f"{threads}_thread" + "s" * (threads > 1)
    rows = [row(f"latency_{name}_{tag}", "ms a slice", values) for name, values in ms.items()]
    kinds = [name.removeprefix("student_") for name in ms if name.startswith("student_")]
    ratios = {kind: ms[f"teacher_{kind}"] / ms[f"student_{kind}"] for kind in kinds}
    rows += [
        row(f"student_over_teacher_throughput_{kind}_{tag}", "ratio", values)
        for kind, values in ratios.items()
    ]
    if threads == 1:
        rows.append(row("student_over_teacher_throughput", "ratio", ratios["litert_float32"]))
    print(json.dumps(rows))


def _runtime(path: Path) -> str:
    return "onnx" if path.suffix == ".onnx" else f"litert_{path.stem.split('-')[1]}"


if __name__ == "__main__":
    main()
