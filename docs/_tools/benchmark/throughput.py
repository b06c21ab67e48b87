"""Slices a second of a study: two runs at once, a thread each, against the prototype alone."""

import sys
import time
from typing import Any

import numpy as np
from common import BATCH, Setting, Worker, row, setting_of
from methods import METHODS

CHUNKS = 8
ONE_THREAD = {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}


def measure(setting: Setting, arguments: list[str]) -> list[dict[str, Any]]:
    rates: dict[str, list[float]] = {name: [] for name in ("prototype", "plain", "kdcore")}
    alone = _warm("prototype", arguments)
    pairs = {
        name: [_warm(name, arguments, **ONE_THREAD) for _ in range(2)]
        for name in ("plain", "kdcore")
    }
    groups = {"prototype": [alone], **pairs}
    slices = CHUNKS * setting.size.chunk * BATCH
    for _ in range(max(2, setting.size.repeats // 2)):
        for name, workers in groups.items():
            rates[name].append(len(workers) * slices / _seconds(workers))
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


def _seconds(workers: list[Worker]) -> float:
    start = time.perf_counter()
    for worker in workers:
        worker.tell("go")
    for worker in workers:
        worker.answer()
    return time.perf_counter() - start


def _warm(name: str, arguments: list[str], **limits: str) -> Worker:
    worker = Worker(__file__, name, *arguments, **limits)
    worker.answer()
    return worker


def main() -> None:
    """Warm up, then a line in, some steps, a line out."""
    setting = setting_of(sys.argv[2:])
    # One `fit` over many epochs, as in a run.
    chunk = setting.size.chunk
    method = METHODS[sys.argv[1]](setting, 0, 10 * CHUNKS * chunk)
    method.run(chunk)
    print("{}", flush=True)
    for _ in sys.stdin:
        method.run(CHUNKS * chunk)
        print("{}", flush=True)


if __name__ == "__main__":
    main()
