"""`nox -s bench`: what distillation costs, beside what one would use instead.

Ratios within one run, since machines are shared and noisy; min, median and max of several
rounds. A part's rows replace those of an earlier run in the results file.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import browser
import common
import growth
import job
import latency
import scale
import steps
import throughput

from kdcore._files import read_json, write_json
from kdcore.training import provenance

PARTS = ("steps", "throughput", "job", "latency", "growth", "scale", "browser")
SHORT = ("steps", "job")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--data-dir", default=None, help="folder of the hippocampus volumes")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="for networks")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for the rows")
    parser.add_argument("--repeats", type=int, default=None, help="rounds of what is in turns")
    parser.add_argument(
        "--short",
        action="store_true",
        help=f"the ratios of {' and '.join(SHORT)} alone, without a download",
    )
    options = parser.parse_args()
    size = common.SHORT if options.short else common.FULL
    size = replace(size, repeats=options.repeats or size.repeats)
    setting = common.Setting(size, options.folder, options.data_dir)
    arguments = ["--folder", str(options.folder)]
    arguments += ["--data-dir", options.data_dir] if options.data_dir else []
    arguments += ["--short"] if options.short else []
    for part in options.parts or (SHORT if options.short else PARTS):
        print(f"{part} …", flush=True)
        rows = measure(part, setting, arguments)
        print(common.table(rows), flush=True)
        if options.out:
            save(options.out, part, rows)
    return 0


def measure(part: str, setting: common.Setting, arguments: list[str]) -> list[dict[str, Any]]:
    if part == "steps":
        return steps.measure(setting)
    if part == "throughput":
        return throughput.measure(setting, arguments)
    if part == "job":
        return job.measure(setting, arguments)
    if part == "latency":
        return latency.measure(setting, arguments)
    if part == "browser":
        return browser.measure(setting.size.repeats)
    with tempfile.TemporaryDirectory() as folder:
        if part == "scale":
            return scale.measure(setting.size.scale, Path(folder))
        return growth.measure(setting.size.growth, Path(folder))


def save(path: Path, part: str, rows: list[dict[str, Any]]) -> None:
    old = read_json(path)["rows"] if path.exists() else []
    kept = [r for r in old if r.get("part", part) != part]
    now = provenance()
    measured = {
        "part": part,
        "commit": now["commit"],
        "processor": now["hardware"]["processor"],
    }
    new = [{"target": common.TARGETS.get(r["name"], ""), **r, **measured} for r in rows]
    write_json(path, {"rows": kept + new, **now}, sealed=True)


if __name__ == "__main__":
    sys.exit(main())
