"""Distil an nnU-Net: `python -m kdcore.distil --data RAW --probabilities MAPS --out FOLDER`.

    split.json                which scans are learned from, and which ones test
    soft-targets/             the teacher's maps of the scans that are learned from
    student/, baseline/       their trainings, each in a folder of `kdcore.fit`
    student.keras, .onnx      the student; ONNX where the packages of `kdcore[export]` are
    results.csv, report.html  scores of each test scan, and what they come to

Called again, it goes on where it stopped; what is finished is not done again. The baseline is the
same student, from the same start, that learns from labels alone.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from kdcore._files import digest, file_digest, read_json, replacing
from kdcore.augmentation import Augmentation
from kdcore.batches import Batches
from kdcore.data.cases import Case
from kdcore.data.grid import reorient
from kdcore.data.msd import label_names, label_regions, read_nnunet
from kdcore.data.nnunet import NNUNetProbabilities
from kdcore.data.splits import Split, split_cases
from kdcore.distiller import Distiller
from kdcore.evaluation.metrics import Scores, evaluate, evaluate_case
from kdcore.evaluation.report import write_report
from kdcore.evaluation.scores import ALL, MEAN, Table, mean_of, table_of, write_table
from kdcore.evaluation.statistics import compare
from kdcore.evaluation.tables import interval, summary
from kdcore.export import export
from kdcore.losses import DiceCrossEntropy
from kdcore.soft_targets import SoftTargets, teacher_probabilities
from kdcore.training import fit, warmup_cosine
from kdcore.unet import unet

AXES = ("SPR", "PSR", "RSP")
"""Slices axial, coronal and sagittal."""
_DEPTH, _BATCH_SIZE, _LONGEST_EDGE = 3, 16, 256


def main(arguments: list[str] | None = None) -> int:
    """Train and score student and baseline, export the student and write the report."""
    options = _parse(arguments)
    try:
        _distil(options)
    except (ValueError, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m kdcore.distil", description="A small student of an nnU-Net's probabilities."
    )
    parser.add_argument("--data", type=Path, required=True, help="raw data set, DatasetXXX_Name")
    parser.add_argument(
        "--probabilities", type=Path, required=True, help="of nnUNetv2_predict, <case>.npz"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    parser.add_argument(
        "--splits",
        type=Path,
        help="nnU-Net's splits_final.json: the scans of --fold that it did not train on are the "
        "test; by default a fifth of the labelled scans is",
    )
    parser.add_argument("--fold", type=int, default=0, help="the one that the maps are of")
    parser.add_argument("--filters", type=int, default=8, help="of the student's first level")
    parser.add_argument("--epochs", type=int, default=40, help="of --batches batches each")
    parser.add_argument("--batches", type=int, default=250, help="of 16 slices, an epoch")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    for name in ("filters", "epochs", "batches"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be 1 or more. Received: {getattr(options, name)}.")
    return options


def _distil(options: argparse.Namespace) -> None:
    teacher, notes = NNUNetProbabilities(options.probabilities), []
    originals, left_out = _with_maps(read_nnunet(options.data), options.probabilities)
    if left_out:
        notes.append(
            f"{len(left_out)} scans are left out, since {options.probabilities} has no map of "
            f"them, among them {left_out[0]}."
        )
    split = _split(originals, options)
    _keep(split, options.out / "split.json")
    if options.splits is None:
        notes.append(
            "The test scans were drawn. If nnU-Net was trained on some of them, its scores are too "
            "good; --splits splits_final.json takes those that its fold did not see."
        )
    axes = _slices_of(originals)
    cases, asked = [reorient(case, axes) for case in originals], _Turned(teacher, originals, axes)
    labelled, unlabelled, test = (
        split.take(cases, part) for part in ("labelled", "unlabelled", "test")
    )
    for note in notes:
        print(f"Note: {note}", file=sys.stderr)

    soft_targets = SoftTargets.write(
        asked, labelled + unlabelled, options.out / "soft-targets", split=split
    )
    regions = label_regions(options.data)
    scores = {"teacher": {c.case_id: _of_teacher(asked, c, regions) for c in test}}
    networks = {}
    for arm, training in (("student", labelled + unlabelled), ("baseline", labelled)):
        batches = Batches(
            training,
            _slice_shape(labelled + unlabelled),
            _BATCH_SIZE,
            soft_targets=soft_targets if arm == "student" else None,
            augmentation=Augmentation(),
            labelled_share=0.5 if arm == "student" and unlabelled else None,
            foreground_share=1 / 3,
            num_batches=options.batches,
            seed=options.seed,
        )
        networks[arm] = _train(arm, batches, soft_targets.num_classes, split, options)
        scores[arm] = evaluate(networks[arm], test, regions=regions, split=split)
    table = pd.concat([table_of(of_arm, arm=arm) for arm, of_arm in scores.items()])
    write_table(table, options.out / "results.csv")

    notes += _write_student(networks["student"], batches.shape, labelled[0], options.out)
    parameters = {arm: network.count_params() for arm, network in networks.items()}
    told = [
        f"{len(labelled)} labelled and {len(unlabelled)} unlabelled scans were learned from, "
        f"{len(test)} others test. Student and baseline see slices across the "
        f"{_DIRECTIONS[axes[0]]} axis, of {' × '.join(map(str, batches.shape))} voxels.",
        summary(table, parameters),
        *_sentences(table),
        *notes,
    ]
    print("", *told, sep="\n\n")
    parts = [*told[:2], _by_label(table, label_names(options.data)), *told[2:]]
    page = write_report(options.out / "report.html", "A student of an nnU-Net", parts)
    print(f"\n{page}")


_DIRECTIONS = {"S": "foot-head", "P": "back-front", "R": "left-right"}


def _with_maps(cases: Sequence[Case], folder: Path) -> tuple[list[Case], list[str]]:
    found = [case for case in cases if (folder / f"{case.case_id}.npz").is_file()]
    if not found:
        raise ValueError(
            f"{folder} has no map of any scan. Expected {folder / cases[0].case_id}.npz and so on: "
            "predict the training scans with nnUNetv2_predict --save_probabilities."
        )
    return found, [case.case_id for case in cases if case not in found]


def _split(cases: Sequence[Case], options: argparse.Namespace) -> Split:
    """Test cases are those that the fold did not train on, or a fifth of the labelled ones."""
    labelled = [case.case_id for case in cases if case.mask is not None]
    if len(labelled) < 2:
        raise ValueError(
            f"{len(labelled)} scans have a mask and a map; one to learn from and one to test with "
            "are the least."
        )
    if options.splits is None:
        num_test = max(1, round(len(labelled) / 5))
        split = split_cases(cases, len(labelled) - num_test, 0, num_test, options.seed)
    else:
        held_out = _held_out(options.splits, options.fold)
        test = [case_id for case_id in labelled if case_id in held_out]
        if not 0 < len(test) < len(labelled):
            raise ValueError(
                f"Of the {len(labelled)} scans with a mask and a map, fold {options.fold} of "
                f"{options.splits} holds out {len(test)}. Some must be held out, and not all: "
                "predict the scans that it trained on, too."
            )
        split = Split(
            labelled=tuple(case_id for case_id in labelled if case_id not in held_out),
            unlabelled=tuple(case.case_id for case in cases if case.mask is None),
            validation=(),
            test=tuple(test),
        )
    if not any(
        (case.mask > 0).any() for case in split.take(cases, "test") if case.mask is not None
    ):
        raise ValueError(f"No mask of a test scan holds any label: {', '.join(split.test)}.")
    return split


def _keep(split: Split, path: Path) -> None:
    if path.is_file() and Split.load(path) != split:
        raise ValueError(
            f"{path} is another split: other scans, maps, folds or --seed made what is there. Pass "
            "another --out, or delete that one."
        )
    split.save(path)


def _held_out(path: Path, fold: int) -> set[str]:
    content = read_json(path)
    try:
        return {str(case_id) for case_id in content[fold]["val"]}
    except (LookupError, TypeError) as error:
        folds = len(content) if isinstance(content, list) else 0
        raise ValueError(
            f'{path} has no fold {fold}. Expected a list of {{"train": [...], "val": [...]}}, one '
            f"a fold; it has {folds}."
        ) from error


def _slices_of(cases: Sequence[Case]) -> str:
    """Axes for slices across the thickest voxels; axial ones if no other axis is much thicker."""
    sizes = np.median([reorient(case, AXES[0]).spacing_mm for case in cases], axis=0)
    thickest = int(np.argmax(sizes))
    return AXES[thickest] if sizes[thickest] > 1.5 * sizes[0] else AXES[0]


def _slice_shape(cases: Sequence[Case]) -> tuple[int, int]:
    """The middle size of all, as a multiple of what the student needs."""
    height, width = np.median([case.image.shape[1:3] for case in cases], axis=0)
    step = 2**_DEPTH
    return tuple(min(_LONGEST_EDGE, step * int(-(-edge // step))) for edge in (height, width))


class _Turned:
    """A teacher whose maps lie as the files do, asked about scans that were turned."""

    def __init__(self, teacher: NNUNetProbabilities, cases: Sequence[Case], axes: str) -> None:
        self.teacher, self.axes = teacher, axes
        self.cases = {case.case_id: case for case in cases}

    def digest(self) -> str:
        maps = [[i, file_digest(self.teacher.folder / f"{i}.npz")] for i in sorted(self.cases)]
        return digest(maps, self.axes)

    def __call__(self, case: Case) -> np.ndarray:
        own = self.cases[case.case_id]
        answer = teacher_probabilities(self.teacher, own, None)
        classes = tuple(map(str, range(answer.shape[-1])))
        return reorient(replace(own, image=answer, mask=None, sequences=classes), self.axes).image


def _of_teacher(teacher: _Turned, case: Case, regions: dict[str, tuple[int, ...]]) -> Scores:
    return evaluate_case(case, teacher(case), regions)


def _train(
    arm: str, batches: Batches, num_classes: int, split: Split, options: argparse.Namespace
) -> keras.Model:
    keras.utils.set_random_seed(options.seed)  # the same start for both
    sequences = batches[0][0].shape[-1]
    network = unet((None, None, sequences), num_classes, options.filters, _DEPTH, "student")
    model = Distiller(network, temperature=2.0, alpha=0.9) if arm == "student" else network
    rate = warmup_cosine(1e-2, options.epochs * options.batches)
    model.compile(keras.optimizers.Adam(rate), loss=DiceCrossEntropy())
    print(f"{arm}: {options.epochs} epochs of {options.batches} batches", flush=True)
    return fit(model, batches, options.epochs, options.out / arm, split=split, verbose=2)


def _write_student(student: keras.Model, shape: Sequence[int], case: Case, out: Path) -> list[str]:
    with replacing(out / "student.keras") as temporary:
        student.save(temporary)
    try:
        export(student, out / "student.onnx", space=shape, sequences=case.sequences)
    except (ImportError, ValueError) as error:
        return [f"student.onnx was not written. {error}"]
    return []


def _sentences(table: Table) -> list[str]:
    """The student beside its baseline and its teacher, paired over the test scans."""
    said = []
    for other in ("baseline", "teacher"):
        found = compare(table, "student", other)
        limits = found["interval"]
        said.append(
            f"Student − {other}: {100 * found['difference']:+.2f} Dice points"
            + (f" (95 % interval {interval(limits, 100, '+.2f')})" if limits else "")
            + f", {found['cases']} scans, one training each."
        )
    teacher, baseline = (mean_of(table, arm, MEAN) for arm in ("teacher", "baseline"))
    if teacher < baseline:
        said.append(
            f"The teacher ({teacher:.3f}) is below the baseline ({baseline:.3f}): who imitates it "
            "loses what the labels know. Is it trained to the end, and are these its maps?"
        )
    return said


def _by_label(table: Table, names: dict[str, str]) -> pd.DataFrame:
    """Dice: arms in rows, labels and regions in columns."""
    labels = [label for label in table["label"].unique() if label != ALL]
    rows: list[dict[str, Any]] = []
    for arm in table["arm"].unique():
        dice = {names.get(label, label): mean_of(table, arm, label) for label in (*labels, MEAN)}
        rows.append({"arm": arm, **{f"Dice {name}": value for name, value in dice.items()}})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    raise SystemExit(main())
