"""Put what teacher, student and baseline make of three test volumes into `docs/assets/pictures`.

compare.json, compare.webp    a slice of each volume, masks and Dice, for the slider of overlays
lab.json, lab.webp            the middle volume's slice, logits of teacher and student, for the lab

The networks are those of `docs/weights` with few labels; nothing is trained.
`python docs/_tools/publish_pictures.py --data hippocampus --data-dir DIR`.
"""

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from kdcore._files import replacing, write_json
from kdcore.data.cases import Case
from kdcore.evaluation import figures
from kdcore.evaluation.metrics import Scores, case_dice
from kdcore.evaluation.scores import read_results, to_contract
from kdcore.evaluation.teaching import soften
from kdcore.inference import predict_probabilities
from kdcore.study.__main__ import from_arguments
from kdcore.study.experiment import Experiment

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOLDER = Path(__file__).parents[1] / "assets" / "pictures"
WEIGHTS = Path(__file__).parents[1] / "weights"
RESULTS = Path(__file__).parents[1] / "results"
ARMS = ("teacher", "student", "baseline")
TEMPERATURES = (1, 2, 5)
LEAST = 1e-30
Probabilities = dict[str, dict[str, np.ndarray]]
"""`[case_id][arm]`, `(D, H, W, C)`."""


def main() -> int:
    job = from_arguments(sys.argv[1:], study="evidence")
    networks, study = published(job)
    scores = {arm: of_first_seed(study["arms"][arm]) for arm in ARMS}
    runs = {arm: study["arms"][arm]["runs"]["0"] for arm in ARMS}
    chosen = best_middle_worst(job, scores["student"])
    p: Probabilities = {
        case.case_id: {
            arm: predict_probabilities(network, case) for arm, network in networks.items()
        }
        for case in chosen.values()
    }
    about = {
        "data": job.task.name,
        "licence": job.task.licence,
        "cite": job.task.cite,
        "labels": job.task.labels,
        "networks": {arm: run["model_digest"] for arm, run in runs.items()},
        "commit": runs["student"]["commit"],
    }
    compared = [compared_case(name, case, p[case.case_id], scores) for name, case in chosen.items()]
    write_json(FOLDER / "compare.json", {**about, "cases": compared}, indent=None)
    masks = {arm: {k: v[arm].argmax(-1) for k, v in p.items()} for arm in ARMS}
    overview = figures.overlays(chosen, masks, job.task.labels)
    write_picture(FOLDER / "compare.webp", overview)
    middle = chosen["middle"]
    write_json(FOLDER / "lab.json", {**about, **slice_of(middle, p[middle.case_id])}, indent=None)
    log_p = np.log(np.maximum(p[middle.case_id]["teacher"], LEAST))
    write_picture(FOLDER / "lab.webp", figures.soft_target_maps(middle, log_p, TEMPERATURES))
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB")
    return 0


def published(job: Experiment) -> tuple[dict[str, keras.Model], dict[str, Any]]:
    """The three networks, and the study that they are of."""
    name, labelled = job.name.removeprefix("evidence-"), job.config.num_labelled
    study = to_contract(*read_results(RESULTS / f"evidence-{name}-{labelled}-labels.csv.gz"))
    files = {arm: WEIGHTS / f"{name}-{labelled}-labels-{arm}.keras" for arm in ARMS}
    return {
        arm: keras.saving.load_model(path, compile=False, safe_mode=True)
        for arm, path in files.items()
    }, study


def of_first_seed(arm: dict[str, Any]) -> dict[str, Scores]:
    return {case_id: entry["0"] for case_id, entry in arm["per_case"].items()}


def best_middle_worst(job: Experiment, scores: dict[str, Scores]) -> dict[str, Case]:
    """Test volumes by the student's mean Dice."""
    order = sorted(scores, key=lambda case_id: case_dice(scores[case_id]), reverse=True)
    places = {"best": order[0], "middle": order[len(order) // 2], "worst": order[-1]}
    cases = {case.case_id: case for case in job.take("test")}
    return {name: cases[case_id] for name, case_id in places.items()}


def largest_plane(case: Case) -> int:
    """The slice that `kdcore.figures` shows, too."""
    assert case.mask is not None
    return int((case.mask > 0).sum(axis=(1, 2)).argmax())


def picture(case: Case) -> dict[str, Any]:
    """Which slice, and its pixels; the top row first, as it is shown."""
    plane = largest_plane(case)
    pixels = figures.upright(case.image[plane, ..., 0], case)
    low, high = np.percentile(pixels, (0.5, 99.5))
    grey = np.clip(255 * (pixels - low) / max(high - low, 1e-6), 0, 255).round()
    return {
        "id": case.case_id,
        "slice": plane + 1,
        "shape": pixels.shape,
        "image": packed(grey.astype(np.uint8)),
    }


def compared_case(
    name: str, case: Case, p: dict[str, np.ndarray], scores: dict[str, dict[str, Scores]]
) -> dict[str, Any]:
    plane = largest_plane(case)
    assert case.mask is not None
    masks = {"reference": case.mask} | {arm: p[arm].argmax(-1) for arm in ARMS}
    shown = {k: digits(figures.upright(mask[plane], case)) for k, mask in masks.items()}
    dice = {arm: dice_of(own[case.case_id]) for arm, own in scores.items()}
    return {"name": name, **picture(case), "masks": shown, "dice": dice}


def dice_of(entry: dict[str, dict[str, float]]) -> dict[str, float]:
    """Of each label in the whole volume, and their mean."""
    scores = {label: entry[label]["dice"] for label in entry} | {"mean": case_dice(entry)}
    return {label: round(score, 4) for label, score in scores.items()}


def slice_of(case: Case, p: dict[str, np.ndarray]) -> dict[str, Any]:
    """Logits relative to the background's, in 16 bits; the voxel of most doubt is the first."""
    plane = largest_plane(case)
    log_p = {arm: np.log(np.maximum(p[arm][plane], LEAST)) for arm in ("teacher", "student")}
    relative = {arm: v[..., 1:] - v[..., :1] for arm, v in log_p.items()}
    scale = max(float(np.abs(v).max()) for v in relative.values()) / 32767
    logits = {arm: (turned(v, case) / scale).round().astype("<i2") for arm, v in relative.items()}
    soft = turned(soften(p["teacher"][plane], TEMPERATURES[0]), case)
    doubt = -(soft * np.log(np.maximum(soft, LEAST))).sum(axis=-1)
    assert case.mask is not None
    return {
        **picture(case),
        "labels": digits(figures.upright(case.mask[plane], case)),
        "scale": scale,
        "start": [int(i) for i in np.unravel_index(doubt.argmax(), doubt.shape)],
        **{arm: packed(v) for arm, v in logits.items()},
    }


def turned(maps: np.ndarray, case: Case) -> np.ndarray:
    """`(H, W, C)` upright."""
    channels = [figures.upright(maps[..., c], case) for c in range(maps.shape[-1])]
    return np.stack(channels, axis=-1)


def packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def digits(mask: np.ndarray) -> str:
    return "".join(map(str, mask.ravel()))


def write_picture(path: Path, figure: "Figure") -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, pil_kwargs={"quality": 82, "method": 6})


if __name__ == "__main__":
    raise SystemExit(main())
