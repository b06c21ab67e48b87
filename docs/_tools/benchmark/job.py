"""The whole job: the teacher labels once, then several students, each from another seed.

Each method is a process of its own, so that its memory can be told apart; they take turns
seed by seed, so that all see the same noise of the machine.
"""

import json
import sys
import time
from typing import Any

import numpy as np
from common import Setting, Worker, mean_dice, peak_memory, row, setting_of
from methods import METHODS

NAMES = ("kdcore", "keras", "pytorch", "plain", "online", "torchdistill")
RIVALS = NAMES[:3]  # trained with all seeds, the others with two
LABELS = {"keras": "keras_distillation", "plain": "plain_fit"}


def measure(setting: Setting, arguments: list[str]) -> list[dict[str, Any]]:
    setting.soft_targets()
    names = RIVALS if setting.size.short else NAMES
    workers = {name: Worker(__file__, name, *arguments) for name in names}
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    try:
        for seed in range(setting.size.seeds):
            for name, worker in workers.items():
                if name not in RIVALS and seed >= 2:
                    continue
                worker.tell(seed)
                results[name].append(worker.answer())
                print(f"  {name} seed {seed}: {results[name][-1]}", flush=True)
    finally:
        for worker in workers.values():
            worker.stop()
    seconds = {name: np.array([r["seconds"] for r in rs]) for name, rs in results.items()}
    seconds["kdcore"] = seconds["kdcore"] + setting.labelling()[0] / setting.size.seeds
    rows = [row("job_kdcore", "s a student", seconds["kdcore"])]
    for name in names:
        label = LABELS.get(name, name)
        if name != "kdcore":
            own = seconds["kdcore"][: len(seconds[name])]
            rows.append(row(f"job_over_{label}", "ratio", own / seconds[name]))
        if not setting.size.short:  # so few steps teach nothing
            rows.append(row(f"dice_{label}", "Dice", [r["dice"] for r in results[name]]))
        rows.append(row(f"peak_memory_{label}", "GiB", [results[name][-1]["memory"]]))
    return rows


def main() -> None:
    """A worker: a seed in, a line of JSON out."""
    setting = setting_of(sys.argv[2:])
    size = setting.size
    for line in sys.stdin:
        start = time.perf_counter()
        method = METHODS[sys.argv[1]](setting, int(line), size.job_steps)
        method.run(size.job_steps)
        seconds = time.perf_counter() - start
        answer = {
            "seconds": seconds,
            "memory": peak_memory(),
        }
        if not size.short:
            answer["dice"] = mean_dice(method.network, setting.test)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
