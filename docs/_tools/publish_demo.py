"""Put baseline, student, teacher and some test slices of the live demo into `docs/assets/demo`.

The 2-D arms of the study's first seed, whose runs must be finished:
`nox -s study -- --study evidence --data hippocampus --seeds 1 --budgets 8 --arms baseline
student-2d`, then `python docs/_tools/publish_demo.py --data hippocampus`. `unet-worker.mjs` reads
what is written here.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import matplotlib
import numpy as np

from kdcore._files import replacing, write_json
from kdcore.data.cases import Case
from kdcore.evaluation.figures import overlays, upright
from kdcore.evaluation.metrics import mean_dice
from kdcore.inference import pad_to, predict_mask
from kdcore.normalization import normalize
from kdcore.study.__main__ import add_arguments, from_options
from kdcore.study.experiment import Experiment, Run

matplotlib.use("Agg")
FOLDER = Path(__file__).parents[1] / "assets/demo"
ARMS = {"baseline": "baseline", "student": "student-2d", "teacher": "teacher-2d"}
NUM_SLICES = 6
AT_ONCE = 4  # output channels in the worker's inner loop


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, "evidence")
    job = from_options(parser.parse_args(), "evidence")
    runs = {name: _finished(job, arm) for name, arm in ARMS.items()}
    networks = {name: run.load() for name, run in runs.items()}
    cases = job.take("test")
    cases = cases[:: len(cases) // NUM_SLICES][:NUM_SLICES]  # by number, not by result
    index = {
        "licence": job.task.licence,
        "cite": job.task.cite,
        "classes": ["background", *job.task.labels.values()],
        "networks": {
            name: {**_origin(runs[name]), **write_network(network, FOLDER / f"{name}.bin")}
            for name, network in networks.items()
        },
        "slices": write_slices(cases, networks),
    }
    write_json(FOLDER / "demo.json", index)
    draw(cases, networks, job.task.labels)
    for path in sorted(FOLDER.iterdir()):
        print(f"{path.name:14} {path.stat().st_size:9,} bytes")
    return 0


def _finished(job: Experiment, arm: str) -> Run:
    """The arm's run; nothing is trained here."""
    distillation = job.training(arm).distillation
    if distillation is not None:
        _finished(job, distillation.teacher)
    run = job.run(arm, job.soft_targets(arm))
    if not run.finished:
        raise SystemExit(
            f"{run.folder} is not finished. Run `nox -s study -- --study evidence --data "
            f"hippocampus --seeds 1 --budgets 8 --arms {' '.join(ARMS.values())}`."
        )
    return run


def _origin(run: Run) -> dict[str, Any]:
    return {
        "arm": run.arm,
        "labels": run.config["num_labelled"],
        "test_dice": round(mean_dice(run.result["per_case"]), 6),
        "model_digest": run.result["model_digest"],
        "commit": run.result["commit"],
    }


class Arrays:
    """Arrays one after the other in a file, little-endian float32 if nothing else is said."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, array: np.ndarray, dtype: str = "<f4") -> list[int]:
        """`[offset in bytes, number of values]`."""
        part = np.ascontiguousarray(array, dtype).tobytes()
        place = [self._size, array.size]
        self._parts.append(part)
        self._size += len(part)
        return place

    def write(self, path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(self._parts))


def write_network(network: keras.Model, path: Path) -> dict[str, Any]:
    """Weights to a file; returned is what the network does with them, step by step."""
    weights, steps = Arrays(), []

    def block(name: str) -> None:
        for i in range(2):
            kernel, bias = _folded(network, f"{name}_conv{i}", f"{name}_norm{i}")
            steps.append(_conv(weights, kernel, bias, relu=True))

    depth = sum(layer.name.startswith("pool") for layer in network.layers)
    for level in range(depth):
        block(f"encoder{level}")
        steps.append({"op": "pool"})
    block("bottleneck")
    for level in reversed(range(depth)):
        steps.append(_upsample(weights, *_arrays(network.get_layer(f"upsample{level}"))))
        steps.append({"op": "concatenate"})
        block(f"decoder{level}")
    kernel, bias = _arrays(network.get_layer("logits"))
    filler = -len(bias) % AT_ONCE  # a channel nobody reads, so that four at a time go
    kernel = np.pad(kernel, [(0, 0)] * 3 + [(0, filler)])
    steps.append(_conv(weights, kernel, np.pad(bias, (0, filler)), relu=False))
    weights.write(path)
    return {
        "parameters": network.count_params(),
        "window": network.input_shape[1:3],
        "depth": depth,
        "steps": steps,
    }


def _arrays(layer: keras.layers.Layer) -> list[np.ndarray]:
    return [np.asarray(weight, np.float64) for weight in layer.get_weights()]


def _folded(network: keras.Model, conv: str, norm: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias of a convolution and the batch normalization behind it, as one."""
    (kernel,) = _arrays(network.get_layer(conv))
    layer = network.get_layer(norm)
    gamma, beta, mean, variance = _arrays(layer)
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return kernel * scale, beta - mean * scale


def _conv(weights: Arrays, kernel: np.ndarray, bias: np.ndarray, relu: bool) -> dict[str, Any]:
    return {
        "op": "conv",
        "kernel": len(kernel),
        "filters": len(bias),
        "relu": relu,
        "weights": weights.add(_as_read(kernel)),
        "bias": weights.add(bias),
    }


def _upsample(weights: Arrays, kernel: np.ndarray, bias: np.ndarray) -> dict[str, Any]:
    corners = [_as_read(corner.T[None, None]) for row in kernel for corner in row]
    return {
        "op": "upsample",
        "filters": len(bias),
        "weights": weights.add(np.stack(corners)),
        "bias": weights.add(bias),
    }


def _as_read(kernel: np.ndarray) -> np.ndarray:
    """(rows, columns, inputs, outputs) -> (outputs / 4, rows, columns, inputs, 4)."""
    *front, outputs = kernel.shape
    blocks = kernel.reshape(*front, outputs // AT_ONCE, AT_ONCE)
    return np.moveaxis(blocks, -2, 0)


def write_slices(cases: list[Case], networks: Mapping[str, keras.Model]) -> list[dict[str, Any]]:
    """Normalized slices and masks, and Keras' logits for the test of the site."""
    arrays, logits, slices = Arrays(), Arrays(), []
    for case in cases:
        plane = _largest(case)
        image = normalize(case.image)[plane]
        answers = {name: _logits(network, image) for name, network in networks.items()}
        slices.append(
            {
                "name": case.case_id,
                "plane": plane,
                "shape": image.shape[:2],
                "image": arrays.add(image)[0],
                "logits": {name: logits.add(answer)[0] for name, answer in answers.items()},
            }
        )
    for entry, case in zip(slices, cases, strict=True):  # bytes last: floats must be aligned
        entry["mask"] = arrays.add(case.mask[entry["plane"]], "u1")[0]
    arrays.write(FOLDER / "slices.bin")
    logits.write(FOLDER / "logits.bin")
    return slices


def _largest(case: Case) -> int:
    """The plane with most hippocampus."""
    return int((case.mask > 0).sum(axis=(1, 2)).argmax())


def _logits(network: keras.Model, image: np.ndarray) -> np.ndarray:
    """Of a slice that the network's window holds, padded as `predict_mask` does it."""
    window, (height, width) = network.input_shape[1:3], image.shape[:2]
    if height > window[0] or width > window[1]:
        raise SystemExit(f"A slice of {height} × {width} does not fit in {window}.")
    padded = network.predict_on_batch(pad_to(image, window)[None])[0]
    top, left = (window[0] - height) // 2, (window[1] - width) // 2
    return np.asarray(padded[top : top + height, left : left + width])


def draw(cases: list[Case], networks: Mapping[str, keras.Model], labels: Mapping[str, str]) -> None:
    """The thumbnails, and the picture shown where JavaScript is off."""
    from matplotlib import pyplot

    for number, case in enumerate(cases, 1):
        pixels = upright(normalize(case.image)[_largest(case), ..., 0], case)
        with replacing(FOLDER / f"slice-{number}.png") as temporary:
            pyplot.imsave(temporary, pixels, cmap="gray", vmin=0, vmax=1)
    masks = {
        name: {case.case_id: predict_mask(network, case) for case in cases[:2]}
        for name, network in networks.items()
    }
    figure = overlays({f"slice {n}": c for n, c in enumerate(cases[:2], 1)}, masks, labels)
    with replacing(FOLDER / "still.png") as temporary:
        figure.savefig(temporary, dpi=110, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    raise SystemExit(main())
