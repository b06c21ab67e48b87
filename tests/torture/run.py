"""`nox -s torture`: kill, corrupt, crowd and wear out what the library does; print counts.

`--short` takes a minute or two. The counts go to `docs/results/torture.json`, and from there
into the page "How this is tested".
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

PARTS = ("kills", "long_run", "corruption", "two_at_once", "cluster")
# One thread each: a process with threads must not fork, and two parts run side by side.
ENVIRONMENT = {
    **{f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")},
    **{f"TF_NUM_{name}_THREADS": "1" for name in ("INTRAOP", "INTEROP")},
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
COLUMNS = ["what was done", "times", "as it must be", "measured"]


def main() -> int:
    options = _parse()
    if options.part:
        _one_part(options)
        return 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        Path(folder).chmod(0o755)
        told = list(pool.map(lambda part: _start(part, options, Path(folder)), options.parts))
    counts = [count for part in told for count in part]
    _write(counts, options, time.monotonic() - start)
    held = all(c["held"] == c["tried"] and not c["failures"] for c in counts)
    return 0 if held else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Torture kdcore; print counts.")
    parser.add_argument("--short", action="store_true", help="a handful of each")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the counts")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def _start(part: str, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A part in a process of its own; one that dies or hangs has not held."""
    command = [sys.executable, __file__, "--part", part, "--folder", str(folder / part)]
    command += ["--seed", str(options.seed), "--out", str(folder / f"{part}.json")]
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command + ["--short"] * options.short, env=os.environ | ENVIRONMENT, timeout=3600
        )
        code = done.returncode
    except subprocess.TimeoutExpired:
        code = -1
    print(f"{part}: {time.monotonic() - begin:.0f} s", flush=True)
    path = folder / f"{part}.json"
    if code or not path.exists():
        message = f"{part} ended with {code}"
        return [asdict(_count(message))]
    return json.loads(path.read_text())


def _count(message: str) -> Any:
    from torture.common import Count

    return Count(message, 1, 0, "", [message])


def _one_part(options: argparse.Namespace) -> None:
    part = importlib.import_module(f"torture.{options.part}")
    options.folder.mkdir(parents=True, exist_ok=True)
    counts = part.main(options.short, options.seed, options.folder)
    options.out.write_text(json.dumps([asdict(count) for count in counts]))


def _write(counts: list[dict[str, Any]], options: argparse.Namespace, seconds: float) -> None:
    from kdcore._files import write_json
    from kdcore.evaluation.tables import markdown
    from kdcore.training import provenance

    rows = [[str(count[key]) for key in ("what", "tried", "held", "measured")] for count in counts]
    print(markdown(COLUMNS, rows), f"{seconds:.0f} s", sep="\n\n", flush=True)
    for count in counts:
        for failure in count["failures"]:
            print(f"\nNOT HELD, {count['what']}: {failure}")
    if options.out:
        content = {"columns": COLUMNS, "rows": rows, "seed": options.seed, "seconds": seconds}
        content |= {"short": options.short, **provenance()}
        write_json(options.out, content, sealed=True)


if __name__ == "__main__":
    raise SystemExit(main())
