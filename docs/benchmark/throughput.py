"""Slices a second of a study: two runs at once, a thread each, against the prototype alone."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
from common import BATCH, CHUNK, Setting, row
from methods import METHODS

CHUNKS = 8
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def measure(setting: Setting, arguments: list[str]) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {name: [] for name in ("prototype", "plain", "kdcore")}
    alone = _Worker("prototype", arguments, {})
    pairs = {
        name: [_Worker(name, arguments, ONE_THREAD) for _ in range(2)]
        for name in ("plain", "kdcore")
    }
    groups = {"prototype": [alone], **pairs}
    for _ in range(max(2, setting.size.repeats // 2)):
        for name, workers in groups.items():
            rates[name].append(_rate(workers))
    for workers in groups.values():
        for worker in workers:
            worker.stop()
    values = {name: np.array(seen) for name, seen in rates.items()}
    return [
        row("slices_a_second_prototype", "1/s", values["prototype"]),
        row("slices_a_second_two_runs_plain", "1/s", values["plain"]),
        row("slices_a_second_two_runs_kdcore", "1/s", values["kdcore"]),
        row("two_runs_plain_over_prototype", "ratio", values["plain"] / values["prototype"]),
        row("two_runs_kdcore_over_prototype", "ratio", values["kdcore"] / values["prototype"]),
    ]


def _rate(workers: list["_Worker"]) -> float:
    start = time.perf_counter()
    for worker in workers:
        worker.go()
    for worker in workers:
        worker.wait()
    return len(workers) * CHUNKS * CHUNK * BATCH / (time.perf_counter() - start)


class _Worker:
    """A process that trains some steps whenever it is told to."""

    def __init__(self, name: str, arguments: list[str], limits: dict[str, str]) -> None:
        self.process: Any = subprocess.Popen(  # noqa: S603
            [sys.executable, __file__, name, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **limits},
        )
        self.wait()  # until it is warm

    def go(self) -> None:
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def wait(self) -> None:
        for line in self.process.stdout:
            if line.startswith("ready"):
                return
        raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}.")

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    """Warm up, then a line in, some steps, a line out."""
    folder, data_dir, smoke = common.parse_worker(sys.argv[2:])
    setting = Setting(common.SMOKE if smoke else common.FULL, Path(folder), data_dir)
    # One `fit` over many epochs, as in a run.
    method = METHODS[sys.argv[1]](setting, 0, 10 * CHUNKS * CHUNK)
    method.run(CHUNK)
    print("ready", flush=True)
    for _ in sys.stdin:
        method.run(CHUNKS * CHUNK)
        print("ready", flush=True)


if __name__ == "__main__":
    main()
