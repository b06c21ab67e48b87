"""Put the networks of the published study's first seed into `docs/weights`.

Teacher, student and baseline with few labels and with all, found by their digest among the
.keras files of a folder, a run folder for instance: `python docs/_tools/publish_weights.py FOLDER`.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore._files import file_digest, replacing, write_json
from kdcore.data.cases import Case
from kdcore.evaluation.folder import extent_mm
from kdcore.evaluation.scores import Table, per_seed, read_results
from kdcore.study.settings import TASKS
from kdcore.training import weights_digest

FOLDER = Path(__file__).parents[1] / "weights"
RESULTS = FOLDER.with_name("results")
ARMS = ("teacher", "student", "baseline")
STUDY, LABELS = "hippocampus-quick", (8, 120)
TRAINED_ON = {
    "spacing_mm": [1.0, 1.0, 1.0],
    "orientation": "RAS",
    "label_names": dict(TASKS["hippocampus"].labels),
}


def main() -> int:
    networks = {}
    for path in Path(sys.argv[1]).rglob("*.keras"):
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
        networks[weights_digest(network)] = network
    index: dict[str, dict[str, Any]] = {}
    for labels in LABELS:
        table, study = published(labels)
        for arm in ARMS:
            run = study["arms"][arm]["runs"]["0"]
            if run["model_digest"] not in networks:
                raise SystemExit(f"{sys.argv[1]} holds no {arm} of {labels} labels, seed 0.")
            name = f"{STUDY}-{labels}-labels-{arm}.keras"
            network = networks[run["model_digest"]]
            with replacing(FOLDER / name) as temporary:
                network.save(temporary)
            index[name] = {
                "arm": arm,
                "labels": labels,
                "params": network.count_params(),
                "test_dice": round(per_seed(table, arm)[0], 6),
                "file_digest": file_digest(FOLDER / name),
                **TRAINED_ON,
                "extent_mm": largest(seen(arm, labels)),
                "seen": seen(arm, labels),
                **{key: run[key] for key in ("model_digest", "commit", "backend", "hardware")},
            }
            print(name, index[name]["test_dice"], flush=True)
    write_json(FOLDER / "weights.json", index)
    return 0


@cache
def published(labels: int) -> tuple[Table, dict[str, Any]]:
    return read_results(RESULTS / f"evidence-{STUDY}-{labels}-labels.csv.gz")


def seen(arm: str, labels: int) -> list[str]:
    """Cases the network was trained on or chosen with; a student's unlabelled ones, too."""
    split = published(LABELS[-1] if arm == "student" else labels)[1]["split"]
    return sorted([*split["labelled"]["0"], *split["validation"]])


@cache
def _cases() -> dict[str, Case]:
    return {case.case_id: case for case in TASKS["hippocampus"].read(None, None)}


def largest(names: list[str]) -> list[float]:
    """The longest edges of these cases along each axis."""
    return np.max([extent_mm(_cases()[name]) for name in names], axis=0).tolist()


if __name__ == "__main__":
    raise SystemExit(main())
