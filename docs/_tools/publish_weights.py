"""Put the networks of a published study's first seed into `docs/weights`.

They are found by their digest among the .keras files of a folder, of the runs for instance:
`python docs/_tools/publish_weights.py RUNS benchmark-acdc-quick-7-labels --data-dir data/ACDC`.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore._files import file_digest, read_json, replacing, write_json
from kdcore.data.cases import Case
from kdcore.evaluation.folder import extent_mm
from kdcore.evaluation.scores import per_seed, read_results
from kdcore.study.settings import TASKS
from kdcore.training import weights_digest

FOLDER = Path(__file__).parents[1] / "weights"
INDEX = FOLDER / "weights.json"
RESULTS = FOLDER.with_name("results")


@dataclass(frozen=True)
class Published:
    """What of a study is published, and what a user of the networks must know."""

    task: str
    name: str
    labels: int
    arms: tuple[str, ...]
    trained_on: dict[str, Any]


_HIPPOCAMPUS = {"spacing_mm": [1.0, 1.0, 1.0], "orientation": "RAS"}
_ARMS = ("teacher", "student", "baseline")
STUDIES = {
    **{
        f"evidence-hippocampus-quick-{n}-labels": Published(
            "hippocampus", f"hippocampus-quick-{n}-labels", n, _ARMS, _HIPPOCAMPUS
        )
        for n in (8, 120)
    },
    "benchmark-acdc-quick-7-labels": Published(
        "acdc", "acdc-7-labels", 7, _ARMS[1:], {"slice_shape": [128, 128]}
    ),
    "cross-modal-lgg-quick-10-labels": Published(
        "lgg", "lgg-10-labels", 10, _ARMS, {"slice_shape": [128, 128]}
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Publish networks.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("--data-dir", default=None)
    options = parser.parse_args()
    published = STUDIES[options.study]
    networks = {}
    for path in options.runs.rglob("*.keras"):
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
        networks[weights_digest(network)] = network
    table, about = read_results(RESULTS / f"{options.study}.csv.gz")
    task = TASKS[published.task]
    cases = task.read(options.data_dir, None)
    index = read_json(INDEX)
    for arm in published.arms:
        run = about["arms"][arm]["runs"]["0"]
        if run["model_digest"] not in networks:
            raise SystemExit(f"{options.runs} holds no {arm} of {options.study}, seed 0.")
        network = networks[run["model_digest"]]
        path = FOLDER / f"{published.name}-{arm}.keras"
        with replacing(path) as temporary:
            network.save(temporary)
        known = seen(arm, about, cases)
        sequences = about["settings"]["arms"][arm].get("sequences")
        index[path.name] = {
            "arm": arm,
            "labels": published.labels,
            "params": network.count_params(),
            "test_dice": round(per_seed(table, arm)[0], 6),
            "file_digest": file_digest(path),
            "licence": task.licence,
            "label_names": dict(task.labels),
            **published.trained_on,
            **({"sequences": sequences} if sequences else {}),
            **largest([case for case in cases if case.case_id in known]),
            "seen": known,
            **{key: run[key] for key in ("model_digest", "commit", "backend", "hardware")},
        }
        print(path.name, index[path.name]["test_dice"], flush=True)
    write_json(INDEX, index)
    return 0


def seen(arm: str, about: dict[str, Any], cases: Sequence[Case]) -> list[str]:
    """Cases the network was trained on or chosen with; a student's unlabelled ones, too."""
    split = about["split"]
    if arm == "student":
        return sorted(case.case_id for case in cases if case.case_id not in split["test"])
    return sorted([*split["labelled"]["0"], *split["validation"]])


def largest(cases: Sequence[Case]) -> dict[str, list[float]]:
    """The longest edges of these cases along each axis, where they are known."""
    edges = [extent_mm(case) for case in cases if case.has_spacing]
    return {"extent_mm": np.max(edges, axis=0).tolist()} if edges else {}


if __name__ == "__main__":
    raise SystemExit(main())
