"""What smaller soft targets would cost: 8 bits a probability, or the two most probable classes.

Hippocampus, a 2-D teacher, and for each seed one student of each kind of map: the same start, the
same batches. Dice is of the validation cases; bytes are of a voxel of the written maps, as they lie
in a file and as gzip would leave them. Writes `docs/results/maps.json`.
"""

import argparse
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import kdcore
from kdcore._files import write_json
from kdcore.training import provenance

RESULTS = Path(__file__).parents[1] / "results"
SHAPE, STEPS, PER_EPOCH = (64, 48), 1500, 100


def eight_bits(p: np.ndarray) -> np.ndarray:
    return np.round(255 * p).astype(np.uint8)


def two_classes(p: np.ndarray) -> np.ndarray:
    """The others are 0."""
    least = np.sort(p, axis=-1)[..., -2:-1]
    return np.where(p >= least, p, 0).astype(np.float16)


def half(p: np.ndarray) -> np.ndarray:
    """What is stored today."""
    return np.log(np.maximum(p, 1e-7)).astype(np.float16)


KINDS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "float16, logarithms": (half, lambda stored: np.exp(stored.astype(np.float32))),
    "8 bits": (eight_bits, lambda stored: stored.astype(np.float32)),
    "float16, two classes": (two_classes, lambda stored: stored.astype(np.float32)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--folder", type=Path, default=Path("runs/maps"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    cases = kdcore.read_msd(kdcore.hippocampus_folder(options.data_dir))
    split = kdcore.split_cases(cases, num_labelled=8, num_validation=20, num_test=60)
    training = split.take(cases, "labelled") + split.take(cases, "unlabelled")
    validation = split.take(cases, "validation")

    teacher = kdcore.unet((*SHAPE, 1), 3, filters=16)
    labelled = batches(split.take(cases, "labelled"), 0)
    compiled(teacher, 1000)
    teacher = kdcore.fit(teacher, labelled, 1000 // PER_EPOCH, folder=options.folder / "teacher")
    maps = {c.case_id: kdcore.predict_probabilities(teacher, c) for c in training}

    results: dict[str, Any] = {}
    for kind, (store, load) in KINDS.items():
        stored = {case_id: store(p) for case_id, p in maps.items()}
        voxels = sum(p[..., 0].size for p in maps.values())
        packed = sum(len(gzip.compress(one.tobytes(), 6)) for one in stored.values())

        def answer(case: kdcore.Case, stored: Any = stored, load: Any = load) -> np.ndarray:
            p = load(stored[case.case_id])
            return p / p.sum(axis=-1, keepdims=True)

        answer.digest = f"{kind}"  # type: ignore[attr-defined]
        folder = options.folder / kind.replace(", ", "-").replace(" ", "-")
        soft = kdcore.SoftTargets.write(answer, training, folder / "soft", split=split)
        dice = []
        for seed in range(options.seeds):
            keras.utils.set_random_seed(seed)
            student = kdcore.unet((*SHAPE, 1), 3, filters=4)
            distiller = kdcore.Distiller(student, temperature=2.0, alpha=0.9)
            compiled(distiller, STEPS)
            taught = batches(training, seed, soft_targets=soft, labelled_share=0.25)
            place = folder / f"student-{seed}"
            student = kdcore.fit(distiller, taught, STEPS // PER_EPOCH, folder=place)
            dice.append(kdcore.mean_dice(kdcore.evaluate(student, validation)))
            print(kind, seed, f"{dice[-1]:.4f}", flush=True)
        results[kind] = {
            "bytes": sum(one.nbytes for one in stored.values()) / voxels,
            "bytes_gzip": packed / voxels,
            "dice": dice,
        }
    write_json(RESULTS / "maps.json", {"kinds": results, **provenance()}, sealed=True)


def compiled(model: keras.Model, steps: int) -> None:
    rate = kdcore.warmup_cosine(1e-2, steps)
    model.compile(keras.optimizers.Adam(rate), loss=kdcore.DiceCrossEntropy())


def batches(cases: list[kdcore.Case], seed: int, **options: Any) -> kdcore.Batches:
    return kdcore.Batches(
        cases,
        SHAPE,
        augmentation=kdcore.Augmentation(),
        num_batches=PER_EPOCH,
        seed=seed,
        **options,
    )


if __name__ == "__main__":
    main()
