"""Put what the pictures of the theory pages show into `docs/assets/pictures/learn.json`.

The slice is that of the temperature lab (`lab.json`); added are the baseline's logits and three
networks that differ in luck alone, which are trained here (two minutes). Over the test volumes:
how often a network is right, by its confidence. Over the volumes the teacher labelled for the
student: how many of the teacher's errors the student repeats.
`python docs/_tools/publish_learn.py --data hippocampus --data-dir DIR`.
"""

import sys
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from publish_pictures import ARMS, FOLDER, LEAST, largest_plane, packed, published, turned
from tqdm import tqdm

import kdcore
from kdcore._files import read_json, write_json
from kdcore.data.cases import Case
from kdcore.evaluation import figures
from kdcore.inference import predict_probabilities
from kdcore.study.__main__ import from_arguments

BINS = 10
SEEDS = (0, 1, 2)
SHAPE = (64, 48)
STEPS = 150
SURE = 0.99


def main() -> int:
    job = from_arguments(sys.argv[1:], study="evidence")
    networks, _ = published(job)
    lab = read_json(FOLDER / "lab.json")
    case = next(case for case in job.take("test") if case.case_id == lab["id"])
    labelled = job.take("labelled")
    taught = {case.case_id for case in job.take("unlabelled")}  # without their masks
    members = {f"seed {seed}": trained(labelled, seed) for seed in SEEDS}
    maps = {"baseline": networks["baseline"], **members}
    scale = 30 / 32767
    write_json(
        FOLDER / "learn.json",
        {
            **{key: lab[key] for key in ("data", "licence", "cite", "id", "slice", "shape")},
            "scale": scale,
            "maps": {name: logits(network, case, scale) for name, network in maps.items()},
            "reliability": {arm: reliability(networks[arm], job.take("test")) for arm in ARMS},
            "errors": errors(networks, [c for c in job.cases if c.case_id in taught]),
        },
        indent=None,
    )
    print((FOLDER / "learn.json").stat().st_size)
    return 0


def trained(cases: list[Case], seed: int) -> keras.Model:
    """A small network on labels alone, for a few steps."""
    keras.utils.set_random_seed(seed)
    network = kdcore.unet((*SHAPE, 1), num_classes=3, filters=8)
    network.compile(keras.optimizers.Adam(5e-3), loss=kdcore.DiceCrossEntropy())
    batches = kdcore.Batches(cases, SHAPE, batch_size=8, num_batches=STEPS, seed=seed)
    network.fit(batches, verbose=0)
    return network


def logits(network: keras.Model, case: Case, scale: float) -> str:
    """Of the slice, relative to the background's, in 16 bits."""
    p = predict_probabilities(network, case)[largest_plane(case)]
    log_p = np.log(np.maximum(p, LEAST))
    relative = np.clip(turned(log_p[..., 1:] - log_p[..., :1], case) / scale, -32767, 32767)
    return packed(relative.round().astype("<i2"))


def reliability(network: keras.Model, cases: Iterable[Case]) -> dict[str, list[float]]:
    """Voxels, mean confidence and share that is right, in each bin of the confidence.

    Sure background is left out by what the network says: a choice by the label would spoil it.
    """
    count, confidence, right = np.zeros((3, BINS))
    for case in tqdm(cases):
        assert case.mask is not None
        p = predict_probabilities(network, case)
        answer, sure = p.argmax(axis=-1), p.max(axis=-1)
        shown = p[..., 0] < SURE
        place = np.minimum((sure[shown] * BINS).astype(int), BINS - 1)
        count += np.bincount(place, minlength=BINS)
        confidence += np.bincount(place, sure[shown], BINS)
        right += np.bincount(place, (answer == case.mask)[shown], BINS)
    least = np.maximum(count, 1)
    return {
        "voxels": count.tolist(),
        "confidence": (confidence / least).round(4).tolist(),
        "right": (right / least).round(4).tolist(),
    }


def errors(networks: dict[str, keras.Model], cases: list[Case]) -> dict[str, Any]:
    """Voxels in which the teacher is wrong, how many of them are wrong in the same way for student
    and baseline, and the slice in which it errs most.
    """
    counts = {"wrong": 0, "repeated": 0, "shared": 0, "right": 0}
    most, slice_ = 0, {}
    for case in tqdm(cases):
        assert case.mask is not None
        masks = {
            arm: predict_probabilities(network, case).argmax(-1)
            for arm, network in networks.items()
        }
        wrong = masks["teacher"] != case.mask
        counts["wrong"] += int(wrong.sum())
        counts["repeated"] += int((wrong & (masks["student"] == masks["teacher"])).sum())
        counts["shared"] += int((wrong & (masks["baseline"] == masks["teacher"])).sum())
        counts["right"] += int((~wrong).sum())
        plane = int(wrong.sum(axis=(1, 2)).argmax())
        if (found := int(wrong[plane].sum())) > most:
            most, slice_ = found, error_slice(case, plane, masks)
    return {"cases": len(cases), **counts, "slice": slice_}


def error_slice(case: Case, plane: int, masks: dict[str, np.ndarray]) -> dict[str, Any]:
    assert case.mask is not None
    pixels = figures.upright(case.image[plane, ..., 0], case)
    low, high = np.percentile(pixels, (0.5, 99.5))
    grey = np.clip(255 * (pixels - low) / max(high - low, 1e-6), 0, 255).round()
    upright = {
        name: "".join(map(str, figures.upright(mask[plane], case).ravel()))
        for name, mask in {"reference": case.mask, **masks}.items()
    }
    return {
        "id": case.case_id,
        "slice": plane + 1,
        "shape": pixels.shape,
        "image": packed(grey.astype(np.uint8)),
        "masks": upright,
    }


if __name__ == "__main__":
    raise SystemExit(main())
