"""Put three test scans of the default job, as its networks see them, into `docs/assets/home`.

scans.json                    which scans, and the networks' Dice of each
<scan>-<panel>.webp           a slice; in blue what a network finds, in orange what it misses,
                              in pink what is not there

Chosen by the gain, student over baseline: a quarter of the scans gain less than the first, half
gain less than the second, three quarters less than the third. The networks are those of a run:
`nox -s reproduce`, then `python docs/_tools/publish_home.py --runs runs`.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))

from settings import ALL, from_command_line  # noqa: E402

import kdcore  # noqa: E402
from kdcore._files import replacing, write_json  # noqa: E402
from kdcore.data.cases import Case  # noqa: E402
from kdcore.evaluation.figures import upright  # noqa: E402

FOLDER = ROOT / "docs" / "assets" / "home"
REGION = "whole tumour"
QUANTILES = {"low": 0.25, "middle": 0.5, "high": 0.75}
ENLARGED = 5
"""Pixels of a picture for a voxel."""
RIGHT, MISSED, INVENTED = (86, 180, 233), (230, 159, 0), (204, 121, 167)


def main() -> None:
    settings = from_command_line()
    cases = settings.read_cases()
    test = settings.split(cases).take(cases, "test")
    seen = {"teacher": settings.teacher.sequences}
    seen |= dict.fromkeys(("student", "baseline"), settings.student.sequences)
    masks, scores = {}, {}
    for arm, sequences in seen.items():
        path = settings.need(f"{arm}/network.keras", "05_baseline_and_comparison.py")
        network = keras.saving.load_model(path, compile=False)
        masks[arm] = {c.case_id: kdcore.predict_mask(network, c.select(sequences)) for c in test}
        scores[arm] = {c.case_id: overlap(c.mask > 0, masks[arm][c.case_id] > 0) for c in test}
    sick = [case for case in test if case.mask.any()]
    gain = {c.case_id: scores["student"][c.case_id] - scores["baseline"][c.case_id] for c in sick}
    sick.sort(key=lambda case: gain[case.case_id])
    shown = []
    for name, quantile in QUANTILES.items():
        case = sick[round(quantile * (len(sick) - 1))]
        plane = int((case.mask > 0).sum(axis=(1, 2)).argmax())
        truth = upright(case.mask[plane] > 0, case)
        save(f"{name}-t1", grey(case, plane, "T1"))
        for arm in seen:
            found = upright(masks[arm][case.case_id][plane] > 0, case)
            under = grey(case, plane, "FLAIR" if arm == "teacher" else "T1")
            save(f"{name}-{arm}", coloured(under, truth, found))
        dice = {arm: round(float(own[case.case_id]), 4) for arm, own in scores.items()}
        shown.append({"name": name, "case": case.case_id, "slice": plane + 1, "dice": dice})
    mean = {arm: float(np.mean([own[c.case_id] for c in sick])) for arm, own in scores.items()}
    about = {
        "data": settings.title,
        "licence": settings.licence,
        "region": REGION,
        "cases": len(sick),
        "mean_dice": {arm: round(value, 4) for arm, value in mean.items()},
        "scans": shown,
    }
    write_json(FOLDER / "scans.json", about)
    print(about)


def overlap(truth: np.ndarray, found: np.ndarray) -> float:
    return kdcore.dice(truth.astype(np.uint8), found.astype(np.uint8), 1)


def grey(case: Case, plane: int, sequence: str) -> Image.Image:
    pixels = upright(case.image[plane, ..., ALL.index(sequence)], case)
    low, high = np.percentile(pixels, (1, 99.7))
    values = np.clip(255 * (pixels - low) / (high - low), 0, 255).astype(np.uint8)
    size = (ENLARGED * values.shape[1], ENLARGED * values.shape[0])
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def coloured(scan: Image.Image, truth: np.ndarray, found: np.ndarray) -> Image.Image:
    """Each voxel of the region or of the mask by what is true of it."""
    pixels = np.asarray(scan).astype(float)
    for where, color in (
        (truth & found, RIGHT),
        (truth & ~found, MISSED),
        (~truth & found, INVENTED),
    ):
        inside = where.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)
        pixels[inside] = 0.3 * pixels[inside] + 0.7 * np.array(color)
    return Image.fromarray(pixels.round().astype(np.uint8))


def save(name: str, picture: Image.Image) -> None:
    path = FOLDER / f"{name}.webp"
    with replacing(path) as temporary:
        picture.save(temporary, "WEBP", quality=80, method=6)
    print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB, {picture.size}")


if __name__ == "__main__":
    main()
