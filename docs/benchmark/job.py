"""The whole job: the teacher labels once, then several students, each from another seed.

Each method is a process of its own, so that its memory can be told apart; they take turns
seed by seed, so that all see the same noise of the machine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import Setting, mean_dice, row
from methods import METHODS

NAMES = ("kdcore", "keras", "pytorch", "plain", "online", "torchdistill")
RIVALS = NAMES[:3]  # trained with all seeds, the others with two
LABELS = {"keras": "keras_distillation", "plain": "plain_fit"}


def measure(setting: Setting, arguments: list[str]) -> list[dict[str, Any]]:
    setting.soft_targets()
    workers = {name: _start(name, arguments) for name in NAMES}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    try:
        for seed in range(setting.size.seeds):
            for name, worker in workers.items():
                if name not in RIVALS and seed >= 2:
                    continue
                results[name].append(_ask(worker, seed))
                print(f"  {name} seed {seed}: {results[name][-1]}", flush=True)
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()
    seconds = {name: np.array([r["seconds"] for r in rs]) for name, rs in results.items()}
    seconds["kdcore"] = seconds["kdcore"] + _labelling(setting) / setting.size.seeds
    rows = [row("job_kdcore", "s a student", seconds["kdcore"])]
    for name in NAMES:
        label = LABELS.get(name, name)
        if name != "kdcore":
            own = seconds["kdcore"][: len(seconds[name])]
            rows.append(row(f"job_over_{label}", "ratio", own / seconds[name]))
        rows.append(row(f"dice_{label}", "Dice", [r["dice"] for r in results[name]]))
        rows.append(row(f"peak_memory_{label}", "GiB", [results[name][-1]["memory"]]))
    return rows


def _labelling(setting: Setting) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        setting.soft_targets(Path(folder))
        return time.perf_counter() - start


def _start(name: str, arguments: list[str]) -> Any:
    command = [sys.executable, __file__, name, *arguments]
    return subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _ask(worker: Any, seed: int) -> dict[str, float]:
    worker.stdin.write(f"{seed}\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise RuntimeError(f"{worker.args} ended with {worker.wait()}.")


def main() -> None:
    """A worker: a seed in, a line of JSON out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--data-dir")
    options = parser.parse_args()
    size = common.SMOKE if options.smoke else common.FULL
    setting = Setting(size, options.folder, options.data_dir)
    for line in sys.stdin:
        start = time.perf_counter()
        method = METHODS[options.method](setting, int(line), size.job_steps)
        method.run(size.job_steps)
        seconds = time.perf_counter() - start
        answer = {
            "seconds": seconds,
            "dice": mean_dice(method.network, setting.test),
            "memory": common.peak_memory(),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
