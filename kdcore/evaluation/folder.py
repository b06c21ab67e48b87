"""Evaluate a trained network on a folder: `nox -s evaluate -- --weights W --data FOLDER`."""

import argparse
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from kdcore._files import file_digest, read_json, write_json
from kdcore._provenance import provenance, weights_digest
from kdcore.data import acdc, lgg
from kdcore.data.cases import Case
from kdcore.data.grid import orientation, reorient
from kdcore.data.msd import label_names, read_msd
from kdcore.evaluation.metrics import evaluate, labels_of
from kdcore.evaluation.scores import MEAN, per_case, table_of
from kdcore.evaluation.statistics import bootstrap_interval
from kdcore.evaluation.tables import interval, markdown
from kdcore.export import load_exported
from kdcore.training import reason_not_loaded

INDEX = "weights.json"
"""Beside networks: what each was trained on."""
LARGER = 1.5
"""A scan so many times as long as the longest in training is not what a network knows."""
METRICS = {"dice": "Dice", "surface_dice_1mm": "surface Dice 1 mm", "hd95_mm": "HD95 mm"}


def main(arguments: list[str] | None = None) -> int:
    """Print means with intervals, and write every case's scores where asked to.

    Whatever speaks against the folder being what the network was trained for is said first;
    scans whose axes run otherwise than the network's are turned, image and mask alike.
    """
    parser = argparse.ArgumentParser(description="Evaluate a network on a folder of scans.")
    parser.add_argument("--weights", type=Path, required=True, help=".keras, .onnx or .tflite")
    parser.add_argument("--index", type=Path, help=f"what networks know; default: {INDEX} beside W")
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder as the Decathlon's, nnU-Net's, ACDC's, LGG's",
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file for each case's scores")
    options = parser.parse_args(arguments)
    try:
        if options.out and options.out.is_dir():
            raise ValueError(f"--out {options.out} is a folder. Expected a file, scores.json.")
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
        network = load_network(options.weights)
        cases, names = read_scans(options.data)
        if not cases:
            raise ValueError(f"{options.data} has no case with a mask to compare with.")
        trained = trained_on(network, options.index or options.weights.parent / INDEX)
        for doubt in doubts(trained, cases, names):
            print(f"Note: {doubt}", file=sys.stderr)
        shape = trained.get("slice_shape")
        scores = evaluate(
            network, as_trained(cases, trained), slice_shape=tuple(shape) if shape else None
        )
        _print_tables(scores, names, set(trained.get("seen", ())))
        if options.out:
            content = {"weights": file_digest(options.weights), "per_case": scores}
            write_json(options.out, content | provenance(), sealed=True)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    return 0


def read_scans(folder: str | Path) -> tuple[list[Case], Mapping[str, str]]:
    """Scans with masks of a folder in any layout that holds both, and the names of the labels.

    Args:
        folder: As for `read_msd`, `read_nnunet`, `kdcore.data.read_acdc` or `read_lgg`.

    Raises:
        FileNotFoundError, ValueError: As these.
    """
    folder = Path(folder)
    if not (folder / "dataset.json").exists() and folder.is_dir():
        if acdc.holds_acdc(folder):
            return acdc.read_acdc(folder), acdc.LABELS
        if lgg.holds_lgg(folder):
            return lgg.read_lgg(folder), lgg.LABELS
    return read_msd(folder, labelled_only=True), label_names(folder)


def _print_tables(
    scores: Mapping[str, Any], names: Mapping[str, str], seen: AbstractSet[str]
) -> None:
    """Of all cases; and of those alone that the network had not seen, if it had seen some."""
    print(score_table(scores, names))
    new = {case_id: entry for case_id, entry in scores.items() if case_id not in seen}
    if new and len(new) < len(scores):
        print("\nWithout the cases it has seen:", score_table(new, names), sep="\n\n")


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
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is damaged, or no file that Keras has written.")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise
        raise ValueError(f"{path} cannot be loaded: {reason_not_loaded(error)}") from error


def trained_on(network: Any, index: str | Path) -> dict[str, Any]:
    """What is known of a network, whatever its file is called; empty where nothing is.

    Args:
        network: Keras', or exported from one.
        index: JSON file on several networks; it need not be there.

    Raises:
        ValueError: If what the index says of this network is not in the form that is expected.
    """
    exported, index = getattr(network, "description", {}), Path(index)
    own = exported.get("model_digest") if exported else weights_digest(network)
    content = read_json(index) if own and index.is_file() else {}
    for entry in content.values() if isinstance(content, dict) else ():
        if isinstance(entry, dict) and entry.get("model_digest") == own:
            return _checked(entry, index)
    return {}


def _checked(entry: dict[str, Any], index: Path) -> dict[str, Any]:
    names = entry.get("label_names", {})
    fits = {
        "spacing_mm": np.shape(entry.get("spacing_mm", [1, 1, 1])) == (3,),
        "extent_mm": np.shape(entry.get("extent_mm", [1, 1, 1])) == (3,),
        "orientation": isinstance(entry.get("orientation", ""), str),
        "slice_shape": np.shape(entry.get("slice_shape", [1, 1])) == (2,),
        "sequences": isinstance(entry.get("sequences", []), list),
        "label_names": isinstance(names, dict)
        and all(label.isdecimal() and isinstance(n, str) for label, n in names.items()),
        "seen": isinstance(entry.get("seen", []), list),
    }
    wrong = [key for key, fit in fits.items() if not fit]
    if wrong:
        raise ValueError(
            f"{index}: {wrong[0]} of this network is {entry[wrong[0]]!r}. Expected a form such as "
            '"spacing_mm": [1, 1, 1], "orientation": "RAS", "label_names": {"1": "tumour"}, '
            '"seen": ["case_000"].'
        )
    return entry


def as_trained(cases: Iterable[Case], trained: Mapping[str, Any]) -> list[Case]:
    """The cases with the axes and the sequences of the scans the network was trained on."""
    axes, sequences = trained.get("orientation"), trained.get("sequences")
    turned = [reorient(c, axes) if axes and orientation(c) not in ("", axes) else c for c in cases]
    return [case.select(sequences) if sequences else case for case in turned]


def doubts(
    trained: Mapping[str, Any], cases: Sequence[Case], names: Mapping[str, str]
) -> Iterator[str]:
    """What would make scores say little about the network: seen cases, other voxels or labels."""
    seen = [case.case_id for case in cases if case.case_id in trained.get("seen", ())]
    if seen:
        yield (
            f"{len(seen)} of {len(cases)} cases are called as those the network was trained on, or "
            f"chosen with, among them {seen[0]}. If they are these, their scores are too good."
        )
    axes = trained.get("orientation")
    turned = [c for c in cases if axes and orientation(c) not in ("", axes)]
    if turned:
        yield (
            f"{len(turned)} of {len(cases)} scans are turned, since their axes do not run to "
            f"{axes}: those of {turned[0].case_id} run to {orientation(turned[0])}. In Python, "
            f'kdcore.reorient(case, "{axes}") does so.'
        )
    yield from _about_sizes(trained, cases)
    yield from _about_labels(trained.get("label_names", {}), cases, names)


def _about_sizes(trained: Mapping[str, Any], cases: Sequence[Case]) -> Iterator[str]:
    """Voxels of another size, and scans that show much more than the network has seen."""
    size, extent = trained.get("spacing_mm"), trained.get("extent_mm")
    fitted = as_trained(cases, trained) if size or extent else []
    fitted = [c for c in fitted if c.has_spacing]
    others = [c for c in fitted if size and not np.allclose(c.spacing_mm, size, rtol=0.2)]
    if size and others:
        yield (
            f"{len(others)} of {len(cases)} scans have voxels of another size than the "
            f"{_size(size)} mm the network was trained on, among them {others[0].case_id} "
            f"with {_size(others[0].spacing_mm)} mm. kdcore.resample gives cubic voxels of any "
            "size."
        )
    large = [c for c in fitted if extent and (extent_mm(c) > LARGER * np.array(extent)).any()]
    if extent and large:
        yield (
            f"{len(large)} of {len(cases)} scans show more than those the network was trained on, "
            f"which measure {_size(extent)} mm at most, among them {large[0].case_id} with "
            f"{_size(extent_mm(large[0]))} mm. Cut them to what the network knows."
        )


def extent_mm(case: Case) -> np.ndarray:
    """The edges of the scan, `(3,)`."""
    return np.array(case.image.shape[:3]) * case.spacing_mm


def _about_labels(
    trained: Mapping[str, str], cases: Sequence[Case], names: Mapping[str, str]
) -> Iterator[str]:
    """Labels of another name, and such as no mask holds."""
    held = {int(label) for c in cases if c.mask is not None for label in np.unique(c.mask)}
    for label, name in trained.items():
        here = names.get(label, name)
        if name.casefold() not in here.casefold():
            yield f"label {label} is {name!r} for the network and {here!r} in dataset.json."
        if int(label) not in held:
            yield (
                f"no mask holds label {label}, {name!r}. Wherever the network finds it, its Dice "
                "is 0."
            )


def _size(spacing_mm: Iterable[float]) -> str:
    return " × ".join(f"{edge:g}" for edge in spacing_mm)


def score_table(scores: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """Markdown: labels in rows, mean of each metric with its 95 % bootstrap interval.

    Args:
        scores: From `evaluate`.
        names: Of the labels.
    """
    names, table = names or {}, table_of(scores, arm="network")
    labels = labels_of(table["label"].unique())
    rows = []
    for label in [*labels, MEAN]:
        row = [f"{label}, {names[label]}" if label in names else label]
        row += [_mean_of(per_case(table, "network", label, metric)) for metric in METRICS]
        rows.append([*row, str(len(scores))])
    return markdown(["label", *METRICS.values(), "cases"], rows)


def _mean_of(values: pd.Series) -> str:
    """With its interval, and of how many cases, where it is not defined for all."""
    known = values.dropna().to_numpy()
    if not len(known):
        return "–"
    limits = bootstrap_interval(known)
    told = [] if limits is None else [interval(limits, form=".3f")]
    told += [] if len(known) == len(values) else [f"{len(known)} of {len(values)} cases"]
    return f"{known.mean():.3f}" + (f" ({'; '.join(told)})" if told else "")
