"""Put the networks of the published study's first seed into `docs/weights`.

Teacher, student and baseline with few labels and with all; those whose runs are finished in
the given run folder. `python docs/publish_weights.py --data hippocampus --data-dir DIR`.
"""

import sys
from pathlib import Path

import keras

from kdcore.arguments import from_arguments
from kdcore.experiment import train
from kdcore.files import file_digest, read_json, replacing, write_json
from kdcore.metrics import mean_dice

FOLDER = Path(__file__).parent / "weights"
ARMS = ("teacher", "student", "baseline")


def main() -> int:
    job = from_arguments(sys.argv[1:], study="evidence")
    index = FOLDER / "weights.json"
    known = read_json(index) if index.exists() else {}
    everything = len(job.split.labelled) + len(job.split.unlabelled)
    for labelled in (job.config.num_labelled, everything):
        budget = job.with_seed(0, labelled)
        for arm in ARMS:
            run = train(budget, arm)
            name = f"{job.name.removeprefix('evidence-')}-{labelled}-labels-{arm}.keras"
            network = run.load()
            network.optimizer = None
            with replacing(FOLDER / name) as temporary:
                network.save(temporary)
            check = keras.saving.load_model(FOLDER / name, compile=False, safe_mode=True)
            known[name] = {
                "arm": arm,
                "labels": labelled,
                "params": check.count_params(),
                "test_dice": round(mean_dice(run.result["per_case"]), 6),
                "model_digest": run.result["model_digest"],
                "file_digest": file_digest(FOLDER / name),
                "commit": run.result["commit"],
            }
            write_json(index, known)
            print(name, known[name]["test_dice"], flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
