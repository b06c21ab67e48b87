"""Evaluate a trained network on a folder: `nox -s evaluate -- --weights W --data FOLDER`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore.deploy import load_exported
from kdcore.files import file_digest, write_json
from kdcore.metrics import evaluate, labels_of
from kdcore.reading import read_msd
from kdcore.runs import provenance
from kdcore.statistics import MEAN, bootstrap_interval, per_case
from kdcore.tables import interval, markdown

METRICS = {"dice": "Dice", "surface_dice_1mm": "surface Dice 1 mm", "hd95_mm": "HD95 mm"}


def main(arguments: list[str] | None = None) -> int:
    """Print means with intervals, and write every case's scores where asked to."""
    parser = argparse.ArgumentParser(description="Evaluate a network on a folder of scans.")
    parser.add_argument("--weights", type=Path, required=True, help=".keras, .onnx or .tflite")
    parser.add_argument("--data", type=Path, required=True, help="folder in the Decathlon's layout")
    parser.add_argument("--out", type=Path, default=None, help="JSON file for each case's scores")
    options = parser.parse_args(arguments)
    try:
        network = load_network(options.weights)
        cases = [case for case in read_msd(options.data) if case.mask is not None]
        if not cases:
            raise ValueError(f"{options.data} has no case with a mask to compare with.")
        scores = evaluate(network, cases)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    print(score_table(scores))
    if options.out:
        content = {"weights": file_digest(options.weights), "per_case": scores, **provenance()}
        write_json(options.out, content, sealed=True)
    return 0


def load_network(path: str | Path) -> Any:
    """A `.keras` file in Keras' safe mode (no code is run), or an exported network.

    Raises:
        ValueError: If the file is none, or is damaged.
        FileNotFoundError: If it is not there.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    if path.suffix in (".onnx", ".tflite"):
        return load_exported(path, threads=2)
    if path.suffix != ".keras":
        raise ValueError(f"{path.name} is no .keras, .onnx or .tflite file.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise
        raise ValueError(f"{path} cannot be loaded: {error}") from error


def score_table(scores: Mapping[str, Any]) -> str:
    """Markdown: labels in rows, mean of each metric with its 95 % bootstrap interval."""
    per_seed = {case_id: {"0": entry} for case_id, entry in scores.items()}
    results = {"arms": {"network": {"per_case": per_seed}}}
    rows = []
    for label in [*labels_of(next(iter(scores.values()))), MEAN]:
        row = [label]
        for metric in METRICS:
            values = np.array([*per_case(results, "network", label, metric).values()], float)
            values = values[np.isfinite(values)]
            limits = interval(bootstrap_interval(values) if len(values) else None, form=".3f")
            row.append(f"{values.mean():.3f} ({limits})" if len(values) else "–")
        rows.append([*row, str(len(scores))])
    return markdown(["label", *METRICS.values(), "cases"], rows)


if __name__ == "__main__":
    raise SystemExit(main())
