"""Damaged and foreign input: the right answer, or an error that names the file."""

import os
import random
import resource
import shutil
import signal
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from torture.common import Count, unless
from torture.mutations import TRAP
from torture.targets import Target, all_targets

import kdcore

SECONDS, MORE_MEMORY = 10, 3 << 30
HOME = str(Path(kdcore.__file__).parent)


class TooSlowError(BaseException):
    """Not an Exception, so that nothing takes it for one."""


def main(short: bool, seed: int, folder: Path) -> list[Count]:
    """560 inputs; a tenth in the short form. Each file is as it was again after its turn."""
    os.environ[TRAP] = str(folder / "unpickled")
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    targets, counts, slowest = all_targets(folder), [], 0.0
    expected = [target.read() for target in targets]
    before = _limit_memory()
    rng = random.Random(seed)
    for target, right in zip(targets, expected, strict=True):
        count = Count(f"corrupted: {target.name}")
        told = []
        for number in range(max(3, target.share // 10) if short else target.share):
            start = time.monotonic()
            told.append(_one_input(target, right, number, rng, count))
            slowest = max(slowest, time.monotonic() - start)
        refused = told.count("refused")
        count.measured = f"refused {refused}, right answer {told.count('right')}"
        counts.append(count)
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    counts[0].measured += f"; slowest of all inputs {slowest:.1f} s, {peak:.0f} MB more memory"
    trap = Count("nothing was unpickled")
    trap.add(unless(not Path(os.environ[TRAP]).exists(), "something was"))
    return [*counts, trap]


def _one_input(target: Target, right: Any, number: int, rng: random.Random, count: Count) -> str:
    """Mutate one file, read, and put it back."""
    paths = list(target.mutations)
    path = paths[number % len(paths)]
    ways = target.mutations[path]
    mutation = ways[(number // len(paths)) % len(ways)]
    kept = path.with_name(f"{path.name}.kept")
    shutil.copy2(path, kept)
    path.write_bytes(mutation(kept.read_bytes(), rng))
    what = f"{path.name}, {getattr(mutation, '__name__', mutation)}"
    try:
        told, problem = _read(target, right, path)
    finally:
        os.replace(kept, path)
    count.add(f"{what}: {problem}" if problem else "")
    return told


def _read(target: Target, right: Any, path: Path) -> tuple[str, str]:
    signal.alarm(SECONDS)
    try:
        answer = target.read()
    except TooSlowError:
        return "slow", f"took more than {SECONDS} s"
    except (Exception, RecursionError) as error:
        return "refused", _not_clear(error, (path.name, path.name.split(".")[0], target.or_named))
    finally:
        signal.alarm(0)
    return ("right", "") if answer == right else ("wrong", "a wrong answer")


def _not_clear(error: Exception, names: tuple[str, ...]) -> str:
    """Empty for an error of kdcore's, or of the system's, that names the file."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    ours = last.filename.startswith(HOME) or isinstance(error, OSError)
    named = any(name and name in str(error) for name in names)
    if ours and named and isinstance(error, ValueError | OSError | KeyError):
        return ""
    return f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"


def _limit_memory() -> int:
    """Of the whole process, so that a greedy reader fails; gives the peak so far in KB."""
    status = Path("/proc/self/status")
    if status.exists():
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmSize")]
        limit = int(lines[0].split()[1]) * 1024 + MORE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _too_slow(*args: object) -> None:
    raise TooSlowError
