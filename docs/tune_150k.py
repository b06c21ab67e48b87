"""Learning rates of the 157 k networks, chosen on the validation cases of seed 0.

The same two tries for baseline and student. `python docs/tune_150k.py --data hippocampus`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from kdcore.arguments import from_arguments
from kdcore.experiment import train
from kdcore.files import write_json
from kdcore.runs import provenance

PATH = Path(__file__).parent / "results" / "tuning-150k.json"


def main() -> int:
    job = from_arguments(sys.argv[1:], study="evidence")
    rows = []
    for arm in ("baseline-150k", "student-150k"):
        for rate in (1e-2, 2e-2):
            training = replace(job.training(arm), learning_rate=rate)
            job.config = replace(job.config, arms={**job.config.arms, arm: training})
            run = train(job, arm)
            rows.append([arm, f"{rate:g}", run.result["validation_dice"]])
            print(*rows[-1], flush=True)
    columns = ["arm", "learning rate", "validation Dice"]
    write_json(PATH, {"columns": columns, "rows": rows, **provenance()})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
