"""`kill -9` at random moments; each next start goes on, and all ends as if nothing had been."""

import os
import random
import tarfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
from conftest import make_case, write_msd
from torture.common import (
    COARSE,
    Child,
    Count,
    differences,
    do_main_job,
    do_study,
    environment,
    fork,
    fresh_network,
    outcome,
    unless,
)
from torture.web import serving

import kdcore
from kdcore._files import read_json
from kdcore.batches import Batches
from kdcore.data import download as datasets

Job = Callable[[Path], object]
FINISHED = ("result.json", "finished.json", "digests.json", "dataset.json")


def main(short: bool, seed: int, folder: Path) -> list[Count]:
    """50 kills; 8 in the short form, where nothing big is trained."""
    with serving(archive(folder / "served")) as (url, md5):
        jobs: dict[str, tuple[Job, int, float]] = {
            "writing soft targets": (do_soft_targets, 8, 0.3),
            "training over six epochs": (do_training, 8, 3.0),
            "simulating the scans": (do_simulation, 8, 0.7),
            "a download": (lambda place: do_download(place, url, md5), 8, 0.6),
            "the study": (do_study, 10, 6.0),
            "the main job": (do_main_job, 8, 8.0),
        }
        if short:
            jobs = {name: (job, 2, life) for name, (job, _, life) in list(jobs.items())[:4]}
        campaign = Campaign(random.Random(seed))
        for number, (name, (job, kills, life)) in enumerate(jobs.items()):
            campaign.run(name, job, kills, life, folder / str(number))
    landed = sorted(campaign.where.items(), key=lambda item: -item[1])
    campaign.ends.measured = "killed in " + ", ".join(f"{what} {n}" for what, n in landed)
    return [*campaign.counts, campaign.ends]


class Campaign:
    """Kill a job and start it again until it is done, then anew, until it was killed enough."""

    def __init__(self, rng: random.Random) -> None:
        self.rng, self.where, self.counts = rng, Counter[str](), list[Count]()
        self.ends = Count("then to the end: the results of no kill at all, nothing done twice")

    def run(self, name: str, job: Job, kills: int, life: float, folder: Path) -> None:
        count, whole, number = Count(f"kill -9 in {name}"), folder / "whole", 0
        self.counts.append(count)
        problem = fork(lambda: job(whole), folder / "whole.log").unless_well()
        count.failures += [problem] if problem else []
        while count.tried < kills and not count.failures:
            number += 1
            place = folder / f"broken{number}"
            while count.tried < kills and self.one_life(job, place, life, count):
                pass
            before = finished(place)
            end = fork(lambda place=place: job(place), place.with_suffix(".end.log"))
            problem = end.unless_well() + done_again(before, place)
            other = differences(outcome(whole), outcome(place))
            self.ends.add(problem + unless(not other, f"the outcome differs in {other}"))

    def one_life(self, job: Job, place: Path, life: float, count: Count) -> bool:
        """Start it and kill it; False if it was done before, or something is wrong."""
        before, left = finished(place), set(place.rglob(".part-*"))
        child = fork(lambda: job(place), place.with_suffix(f".{count.tried}.log"))
        _wait_for_a_moment(child, place, life, self.rng)
        if child.poll() is not None:
            if child.code:
                count.add(child.unless_well())
            return False
        child.kill()
        self.where[_being_written(place, left)] += 1
        count.add(done_again(before, place) + half_files(place))
        return not count.failures


def _wait_for_a_moment(child: Child, place: Path, life: float, rng: random.Random) -> None:
    """Some time, or some number of changes of the folder and a moment more."""
    end = time.monotonic() + rng.uniform(0.05, life)
    changes = rng.randint(1, 12) if rng.random() < 0.6 else None
    seen = _state(place)
    while child.poll() is None:
        if changes is None and time.monotonic() > end:
            return
        now = _state(place)
        if changes is not None and now != seen:
            changes, seen = changes - 1, now
            if changes == 0:
                time.sleep(rng.uniform(0, 0.005))
                return
        time.sleep(0.001)


def _state(place: Path) -> frozenset[tuple[str, int]]:
    """Names and sizes of all files; some go while they are looked at."""
    found = set()
    for folder, _, names in os.walk(place):
        found.add((folder, 0))
        for name in names:
            with suppress(OSError):
                found.add((f"{folder}/{name}", Path(folder, name).stat().st_size))
    return frozenset(found)


def done_again(before: dict[str, int], place: Path) -> str:
    after = finished(place)
    again = [name for name, inode in before.items() if after.get(name) != inode]
    return unless(not again, f"done again: {again}")


def finished(place: Path) -> dict[str, int]:
    """What must not be done again, with its inode: a new file would have another."""
    return {
        str(path.relative_to(place)): path.stat().st_ino
        for path in place.rglob("*.json")
        if ".part-" not in str(path)  # what a killed process left may go
        and (path.name in FINISHED or path.parent.name.startswith(("soft-targets", "records")))
    }


def _being_written(place: Path, left: set[Path]) -> str:
    """By what the killed process left behind, and no earlier one."""
    for part in sorted({*place.rglob(".part-*")} - left):
        names = [path.name for path in part.rglob("*")]
        if part.parent.name.startswith("soft-targets"):
            return "soft targets"
        if any(name.endswith((".weights.h5", ".keras")) for name in names):
            return "weights"
        if any(name.endswith(".npy") for name in names):
            return "the cache"
        return "an archive's files" if "Task" in "".join(names) else "results and records"
    loading = [p for p in place.rglob("tmp*") if p.is_file()]
    return "a download" if loading else "nothing: computing"


def half_files(place: Path) -> str:
    """Files under their own names that are not whole."""
    broken = []
    for path in place.rglob("*.*"):
        if ".part-" in str(path) or not path.is_file():
            continue
        try:
            _read_whole(path)
        except Exception as error:
            broken.append(f"{path.name}: {error!r}")
    return unless(not broken, f"not whole: {broken}")


def _read_whole(path: Path) -> None:
    if path.suffix == ".json":
        read_json(path)
    elif path.suffix == ".npy":
        np.load(path, allow_pickle=False)
    elif path.suffix == ".keras":
        with zipfile.ZipFile(path) as file:
            assert file.testzip() is None
    elif path.suffix == ".h5":
        with h5py.File(path) as file:
            file.visititems(lambda name, item: item[()] if hasattr(item, "shape") else None)
    elif path.suffix == ".tar":
        with tarfile.open(path) as file:
            file.getmembers()


def do_training(place: Path) -> None:
    """Six epochs, each with its weights."""
    split = kdcore.Split(("case_000",), (), (), ("case_002",))
    batches = Batches([make_case(0)], (16, 16), 2, num_batches=3)
    kdcore.fit(fresh_network(), batches, 6, place / "baseline", split=split, verbose=0)


def teacher(case: kdcore.Case) -> np.ndarray:
    p = (case.image - case.image.min()) / np.ptp(case.image)
    return np.concatenate([1 - p, p], axis=-1)


teacher.digest = "v1"


def do_soft_targets(place: Path) -> None:
    cases = [make_case(index, (12, 64, 64)) for index in range(12)]
    kdcore.SoftTargets.write(teacher, cases, place / "soft-targets-a")


def do_simulation(place: Path) -> None:
    kdcore.simulate_cases(6, simulation=COARSE, folder=place)


def do_download(place: Path, url: str, md5: str) -> None:
    """Fetch, check and unpack, from a server on this machine."""
    with (
        environment(KDCORE_CACHE=place, KDCORE_DATA="", NO_PROXY="*"),
        mock.patch.multiple(datasets, HIPPOCAMPUS_URL=url, HIPPOCAMPUS_MD5=md5, SECURE="http://"),
    ):
        kdcore.read_msd(datasets.hippocampus_folder())


def archive(folder: Path) -> Path:
    made = write_msd(folder / datasets.HIPPOCAMPUS, 12)
    path = folder / f"{datasets.HIPPOCAMPUS}.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(made, datasets.HIPPOCAMPUS)
    return path
