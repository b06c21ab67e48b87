"""A study of many runs: it goes on in new processes, so that memory does not grow with them."""

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torture.common import Count, coarse, fork, unless

from kdcore.study import __main__ as study
from kdcore.study import settings as config
from kdcore.study.experiment import Experiment

MOST_GROWTH = 1.1
"""Of any later process over the first."""
ARMS = 20


def main(short: bool, seed: int, folder: Path) -> list[Count]:
    """200 runs, ten processes; in the short form 8 in two."""
    runs, flat = Count("smoke runs of one study"), Count("memory, objects, files of its processes")
    most, total = (4, 8) if short else (study.RUNS_A_PROCESS, 200)
    taken: list[dict[str, float]] = []
    with coarse(folder / "cache"):
        jobs = _jobs(folder, seed, total)
        for number in range(total // most):
            told = folder / f"{number}.json"
            child = fork(partial(_one_process, jobs, most, told), folder / f"{number}.log")
            problem = child.unless_well(900)
            for _ in range(most):
                runs.add(problem)
            taken.append(json.loads(told.read_text()) if told.exists() else {})
        flat.add(unless(all(job.done for job in jobs), "runs are missing"))
    for what in taken[0]:
        first, later = taken[0][what], max(one.get(what, 0) for one in taken[1:])
        flat.add(unless(later <= MOST_GROWTH * first, f"{first:.0f} became {later:.0f} {what}"))
    flat.measured = ", ".join(
        f"{what} {min(values):.0f} to {max(values):.0f}"
        for what in taken[0]
        if (values := [one[what] for one in taken if one])
    )
    return [runs, flat]


def _one_process(jobs: list[study.Job], most: int, told: Path) -> None:
    study.work(jobs, most)
    measures: dict[str, Callable[[], float]] = {
        "MB": _memory_mb,
        "objects": lambda: len(gc.get_objects()),
        "files": lambda: sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }
    told.write_text(json.dumps({what: measure() for what, measure in measures.items()}))


def _jobs(folder: Path, seed: int, total: int) -> list[study.Job]:
    """A teacher, its student and 18 baselines a seed, each as small as can be."""
    smoke = config.STUDIES["main"]["simulated"]["smoke"]
    small = {name: replace(arm, steps=2, filters=2) for name, arm in smoke.arms.items()}
    arms = {name: small[name] for name in ("teacher", "student")}
    arms |= {f"baseline-{n}": replace(small["baseline"], member=n) for n in range(ARMS - 2)}
    few = replace(smoke, arms=arms, num_cases=5, num_validation=1, num_test=1)
    base = Experiment(few, "long", folder / "runs")
    each = [base.with_seed(number) for number in range(seed, seed + -(-total // ARMS))]
    jobs = [study.Job(one, arm, folder / "records") for one in each for arm in arms]
    return jobs[:total]


def _memory_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
