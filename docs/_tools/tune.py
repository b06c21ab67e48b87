"""Tries of settings on the validation cases of seed 0.

`python docs/_tools/tune.py 150k --data hippocampus`: two learning rates of the 154 k networks, the
same for baseline and student. `baseline`: three more tries of the small baseline, so that it
has as many as its student, and the settings it has.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcore._files import write_json
from kdcore.study.__main__ import from_arguments
from kdcore.study.experiment import train
from kdcore.training import provenance

RESULTS = Path(__file__).parents[1] / "results"
TRIES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "150k": [
        (arm, {"learning_rate": rate, "steps": 2000})
        for arm in ("baseline-150k", "student-150k")
        for rate in (1e-2, 2e-2)
    ],
    "baseline": [
        ("baseline", {"learning_rate": rate, "steps": steps})
        for rate, steps in ((2e-2, 2000), (3e-2, 2000), (4e-2, 2000), (2e-2, 3000))
    ],
}


def main() -> int:
    name, *arguments = sys.argv[1:]
    job = from_arguments(arguments, study="evidence")
    rows = []
    for arm, settings in TRIES[name]:
        tried = replace(job.training(arm), **settings)
        job.config = replace(job.config, arms={**job.config.arms, arm: tried})
        run = train(job, arm)
        rate, steps = settings["learning_rate"], settings["steps"]
        rows.append([arm, f"{rate:g}", str(steps), run.result["validation_dice"]])
        print(*rows[-1], flush=True)
    columns = ["arm", "learning rate", "steps", "validation Dice"]
    content = {"columns": columns, "rows": rows, **provenance()}
    write_json(RESULTS / f"tuning-{name}.json", content, sealed=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
