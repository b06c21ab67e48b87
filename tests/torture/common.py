"""What the torture programs share: children that can be killed, small jobs, and counts."""

import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import keras

import kdcore
from kdcore._files import SEAL, read_json
from kdcore.study import __main__ as study
from kdcore.study import settings as studies
from kdcore.study.experiment import Experiment

COARSE = kdcore.Simulation(spacing_mm=6.0)
EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("0[1-5]*.py"))
sys.path.insert(0, str(EXAMPLES[0].parent))  # where they find their settings
TIMES = {"training_seconds", "ms_a_slice", "seconds", SEAL}


@dataclass
class Count:
    """How often something was tried, and how often it came out as it must."""

    what: str
    tried: int = 0
    held: int = 0
    measured: str = ""
    failures: list[str] = field(default_factory=list)

    def add(self, problem: str = "") -> None:
        self.tried += 1
        self.held += not problem
        if problem:
            self.failures.append(problem)
            print(f"NOT HELD, {self.what}: {problem}", flush=True)


def unless(true: bool, problem: str) -> str:
    """Nothing, or a problem to be told."""
    return "" if true else f"{problem}. "


@dataclass
class Child:
    """A forked process. The parent has imported TensorFlow and not yet used it: that may fork."""

    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit status, or None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = 300.0) -> int:
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                return -signal.SIGALRM
            time.sleep(0.01)
        return int(self.code or 0)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def unless_well(self, seconds: float = 300.0) -> str:
        """Wait for it; nothing, or how it failed."""
        return unless(self.wait(seconds) == 0, f"{self.log.name}: {self.said[-600:]}")


def fork(job: Callable[[], object], log: Path) -> Child:
    """Run a function in a child; what it says goes to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 1
    try:
        with open(log, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        job()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def environment(**values: object) -> Iterator[None]:
    with mock.patch.dict(os.environ, {name: str(value) for name, value in values.items()}):
        yield


def arguments(runs: Path) -> list[str]:
    return ["--data", "simulated", "--tier", "smoke", "--runs", str(runs)]


@contextmanager
def coarse(cache: Path) -> Iterator[None]:
    """Simulated scans of 6 mm, kept in this cache."""
    import settings  # of the examples

    scans = mock.patch.object(studies, "SIMULATION", COARSE)
    simulated = replace(settings.SIMULATED, spacing_mm=COARSE.spacing_mm)
    of_examples = mock.patch.dict(settings.DATA, simulated=simulated)
    with environment(KDCORE_CACHE=cache, MPLBACKEND="Agg"), scans, of_examples:
        yield


def do_study(folder: Path) -> None:
    with coarse(folder / "cache"):
        study.main([*arguments(folder / "runs"), "--seeds", "1"])


def do_main_job(folder: Path) -> None:
    """Examples 1 to 5, one after the other."""
    with coarse(folder / "cache"):
        for example in EXAMPLES:
            sys.argv = [str(example), *arguments(folder / "runs")]
            runpy.run_path(str(example), run_name="__main__")


def small_experiment(folder: Path, seed: int = 0) -> Experiment:
    """The main job at smoke size; use it inside `coarse`."""
    config = kdcore.study.settings.STUDIES["main"]["simulated"]["smoke"]
    return Experiment(config, "small", folder / "runs", seed=seed)


def outcome(folder: Path) -> dict[str, Any]:
    """All that was found out, by file, without what depends on the clock."""
    return {
        str(path.relative_to(folder)): _without_times(read_json(path))
        for path in sorted(folder.rglob("*.json"))
        if path.name != "state.json" and ".part-" not in str(path.relative_to(folder))
    }


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in TIMES}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def differences(a: dict[str, Any], b: dict[str, Any]) -> str:
    """The files in which two outcomes differ."""
    return " ".join(sorted(k for k in {*a, *b} if a.get(k) != b.get(k)))


def fresh_network(filters: int = 2, classes: int = 3) -> keras.Model:
    keras.utils.set_random_seed(filters)
    model = kdcore.unet((16, 16, 1), classes, filters=filters, depth=1)
    model.compile(keras.optimizers.Adam(0.01), loss=kdcore.DiceCrossEntropy())
    return model
