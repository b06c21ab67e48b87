"""Two processes on one folder; a full disk, a read-only folder, the clock back, data gone."""

import importlib
import os
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from conftest import write_msd
from torture.common import (
    Count,
    differences,
    do_main_job,
    do_study,
    environment,
    fork,
    outcome,
    unless,
)
from torture.kills import archive, do_download, do_simulation, do_training
from torture.web import requests_of, serving

import kdcore
from kdcore.data import download as datasets
from kdcore.data import msd as reading
from kdcore.study import __main__ as study

Job = Callable[[Path], object]
NOBODY = 65534
TEN_DAYS = 864_000


def main(short: bool, seed: int, folder: Path) -> list[Count]:
    """In the short form only what trains little."""
    crowd, disk = Count("two processes at once"), Count("a full disk, then room again")
    rights, clock = Count("a read-only folder"), Count("the clock turned back")
    gone = Count("the data removed, after and during reading")
    jobs = {"training": do_training, "simulating": do_simulation}
    jobs |= {} if short else {"study": do_study, "main": do_main_job}
    whole = {job: folder / f"undisturbed-{name}" for name, job in jobs.items()}
    for name, job in jobs.items():
        alone = fork(lambda job=job: job(whole[job]), folder / f"{name}.log").unless_well()
        crowd.add(alone + two_at_once(job, folder / name, whole[job]))
    crowd.add(two_downloads(folder / "download"))
    full_disk(do_training, folder / "small", whole[do_training], (300, 2_000, 40_000), disk)
    rights.add(shown_from_a_read_only_folder(folder / "shown"))
    rights.add(nothing_new_in_a_read_only_folder(folder / "new"))
    if short:
        return [crowd, disk, rights]
    full_disk(do_study, folder / "large", whole[do_study], (1_000, 20_000, 60_000), disk)
    clock.add(clock_back(folder / "clock", whole[do_study]))
    gone.add(data_gone_after_reading(folder / "gone"))
    gone.add(data_gone_during_reading(folder / "going"))
    return [crowd, disk, rights, clock, gone]


def two_at_once(job: Job, folder: Path, whole: Path) -> str:
    """Both end well, with the results of one alone; the study trains no arm twice."""
    pair = [fork(lambda: job(folder / "shared"), folder / f"{n}.log") for n in ("one", "two")]
    problem = "".join(child.unless_well(600) for child in pair)
    trained = [line for child in pair for line in re.findall(r"(.*): validation Dice", child.said)]
    problem += unless(len(trained) == len(set(trained)), f"trained twice: {trained}")
    return problem + other_outcome(whole, folder / "shared")


def other_outcome(expected: Path, received: Path) -> str:
    """What differs, nothing if nothing does."""
    other = differences(outcome(expected), outcome(received))
    return unless(not other and bool(outcome(received)), f"the outcome differs in {other}")


def two_downloads(folder: Path) -> str:
    """One fetches, the other waits for it."""
    served, place = archive(folder / "served"), folder / "cache"
    with serving(served) as (url, md5):
        logs = [folder / f"{name}.log" for name in ("one", "two")]
        pair = [fork(lambda: do_download(place, url, md5), log) for log in logs]
        problem = "".join(child.unless_well() for child in pair)
    return problem + unless(requests_of(served) == 1, f"{requests_of(served)} downloads")


def full_disk(job: Job, folder: Path, whole: Path, sizes: tuple[int, ...], count: Count) -> None:
    """No file can grow beyond so many bytes: that is said; later the work goes on."""
    for size in sizes:
        place = folder / str(size)

        def limited(size: int = size, place: Path = place) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            job(place)

        said = _told_through_a_pipe(limited, folder / "limited.log")
        clear = re.search(rf"{place}/\S+ was not written", said)
        problem = unless(bool(clear), f"{size} bytes, not said: {said[-300:]}")
        problem += fork(lambda place=place: job(place), folder / f"{size}.log").unless_well()
        count.add(problem + other_outcome(whole, place))


def _told_through_a_pipe(job: Callable[[], object], log: Path) -> str:
    """What a child says that can write no file."""
    reader, writer = os.pipe()

    def piped() -> None:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        job()

    child = fork(piped, log)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read().decode(errors="replace")
    child.wait()
    return said


def shown_from_a_read_only_folder(folder: Path) -> str:
    """A finished run is opened, not trained again."""
    problem = fork(lambda: do_training(folder), folder.parent / "made.log").unless_well()
    with _read_only(folder):
        shown = fork(lambda: _without_rights(do_training, folder), folder.parent / "shown.log")
        return problem + shown.unless_well()


def nothing_new_in_a_read_only_folder(folder: Path) -> str:
    """It says why, and names the folder."""
    folder.mkdir()
    with _read_only(folder):
        new = fork(lambda: _without_rights(do_training, folder), folder.parent / "new.log")
        code = new.wait()
    said = f"Permission denied: '{folder}"
    return unless(code == 1 and said in new.said, f"status {code}: {new.said[-300:]}")


def _without_rights(job: Job, folder: Path) -> None:
    """As an ordinary user: a superuser may write anywhere.

    He may not read where a superuser's Python lies: what it imports late is imported before.
    """
    importlib.import_module("encodings.cp437")  # names of files in a zip
    if os.geteuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    job(folder)


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield
    for path in paths:
        path.chmod(0o755 if path.is_dir() else 0o644)


def clock_back(folder: Path, whole: Path) -> str:
    """Half the work is done, all its files are of the future, and the clock runs backwards."""
    place = folder / "broken"
    first = fork(lambda: do_study(place), folder / "first.log")
    while first.poll() is None and not list(place.glob("runs/*/*/result.json")):
        time.sleep(0.01)
    first.kill()
    now, started = time.time(), time.monotonic()
    for path in place.rglob("*"):
        os.utime(path, (now + TEN_DAYS, now + TEN_DAYS))

    def backwards() -> None:
        with mock.patch("time.time", lambda: now - 60 * (time.monotonic() - started)):
            do_study(place)

    problem = fork(backwards, folder / "after.log").unless_well()
    return problem + other_outcome(whole, place)


def data_gone_after_reading(folder: Path) -> str:
    """What was read is enough to finish."""
    data = write_msd(folder / "data" / datasets.HIPPOCAMPUS, 10)
    whole, place, stages = folder / "whole", folder / "after", study._stages

    def and_remove(options: Any) -> list[Any]:
        made = list(stages(options))
        shutil.rmtree(data)
        return made

    def removing() -> None:
        with mock.patch.object(study, "_stages", and_remove):
            _study_of(data, place)

    problem = fork(lambda: _study_of(data, whole), folder / "whole.log").unless_well()
    problem += fork(removing, folder / "after.log").unless_well()
    problem += unless(not data.exists(), "it was not removed")
    return problem + other_outcome(whole, place)


def data_gone_during_reading(folder: Path) -> str:
    """The first missing file is named."""
    data, read, seen = write_msd(folder / datasets.HIPPOCAMPUS, 6), reading.read_case, []

    def and_remove(*arguments: Any, **how: Any) -> kdcore.Case:
        seen.append(arguments)
        if len(seen) == 4:
            shutil.rmtree(data)
        return read(*arguments, **how)

    with mock.patch.object(reading, "read_case", and_remove):
        try:
            kdcore.read_msd(data)
        except FileNotFoundError as error:
            return unless("case_003.nii.gz does not exist" in str(error), str(error))
    return "it was not noticed"


def _study_of(data: Path, place: Path) -> None:
    options = ["--data", "hippocampus", "--tier", "smoke", "--seeds", "1", "--runs", str(place)]
    with environment(KDCORE_DATA=data):
        study.main(options)
