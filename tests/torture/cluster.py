"""Workers, machines and heads that die, a full disk, one machine more: Ray's tests, counted."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from torture.common import Count

TESTS = Path(__file__).parents[1] / "test_ray.py"
WHAT = "workers and machines die, come, lack room or data"


def main(short: bool, seed: int, folder: Path) -> list[Count]:
    """Nothing in the short form: they take minutes, and Ray."""
    if short:
        return []
    count, report = Count(WHAT), folder / "report.xml"
    if find_spec("ray") is None:
        count.add("Ray is not installed: nox -s torture does that")
        return [count]
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS), f"--junitxml={report}"]
    subprocess.run([*command, f"--rootdir={TESTS.parents[1]}"], check=False)
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            bad = [case.find(kind) for kind in ("failure", "error")]
            said = " ".join(str(one.get("message")) for one in bad if one is not None)
            count.add(f"{case.get('name')}: {said}" if said else "")
    return [count]
