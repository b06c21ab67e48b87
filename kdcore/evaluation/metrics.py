"""Per case, in 3-D, units in the name; undefined is NaN (null in JSON), never smoothed.

| reference | prediction | Dice | surface Dice | hd95_mm |
|---|---|---|---|---|
| has the label | has it | [0, 1] | [0, 1] | ≥ 0 |
| has the label | lacks it, or the other way round | 0 | 0 | NaN |
| lacks it | lacks it | NaN | NaN | NaN |

Surface Dice and hd95_mm are NaN, too, where the size of the voxels is not known.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from kdcore.data.cases import Case
from kdcore.data.splits import Split
from kdcore.inference import as_answers, most_probable, predict_mask, predict_probabilities
from kdcore.losses import IGNORE, Tensor, combine_weights
from kdcore.normalization import Normalization

SURFACE_TOLERANCE_MM = 1.0
_CALIBRATION_BINS = 15
_TOLERANCE = 1e-2

Scores = dict[str, dict[str, float]]
"""Of one case: `[label or region][metric]`."""


def dice(reference: np.ndarray, prediction: np.ndarray, label: int) -> float:
    """2 |A ∩ B| / (|A| + |B|) of one label of two masks of any (equal) shape.

    Returns:
        In [0, 1]; NaN if the label is in neither mask, 0 if in one only.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> round(float(kdcore.dice(np.array([0, 1, 1]), np.array([0, 1, 0]), label=1)), 3)
        0.667

    Reference: Dice 1945, https://doi.org/10.2307/1932409
    """
    a, b = _pair(reference, prediction, label)
    size = np.count_nonzero(a) + np.count_nonzero(b)
    return float("nan") if size == 0 else 2 * np.count_nonzero(a & b) / size


def surface_distances(
    reference: np.ndarray, prediction: np.ndarray, label: int, spacing_mm: Sequence[float]
) -> tuple[float, float]:
    """Surface Dice at 1 mm and 95th-percentile symmetric surface distance in mm.

    Computed on meshes by MeshMetrics. Of a single slice the surface is its contour: its two flat
    faces are no border of anything.

    Returns:
        `(surface_dice_1mm, hd95_mm)`; see the table above for empty masks.

    Raises:
        ValueError: If shapes differ, or the voxels' size is not known.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> mask = np.zeros((10, 10, 10), np.uint8)
        >>> mask[3:7, 3:7, 3:7] = 1
        >>> moved = np.roll(mask, 2, axis=0)
        >>> surface_dice, hd95_mm = kdcore.surface_distances(mask, moved, 1, (1.0, 1.0, 1.0))
        >>> surface_dice < 1, round(hd95_mm, 1)
        (True, 2.0)

    Reference: Nikolov et al. 2021, https://doi.org/10.2196/26151; Podobnik and Vrtovec
    2025, https://arxiv.org/abs/2509.05670
    """
    if not np.isfinite(spacing_mm).all():
        raise ValueError(
            f"Distances in mm need the size of the voxels. Received: {tuple(spacing_mm)}, which is "
            "not known. Use dice alone, or set the case's spacing_mm."
        )
    a, b = _pair(reference, prediction, label)
    if not a.any() or not b.any():
        return (float("nan") if a.any() == b.any() else 0.0), float("nan")
    if np.array_equal(a, b):
        return 1.0, 0.0
    from meshmetrics import DistanceMetrics

    if a.ndim == 3 and 1 in a.shape:
        flat = a.shape.index(1)
        a, b = a.squeeze(flat), b.squeeze(flat)
        spacing_mm = [size for axis, size in enumerate(spacing_mm) if axis != flat]
    # A mesh closes only if the mask does not touch the border of the array.
    metrics = DistanceMetrics(verbose=False)
    metrics.set_input(ref=np.pad(a, 1), pred=np.pad(b, 1), spacing=tuple(spacing_mm))
    return float(metrics.nsd(tau=SURFACE_TOLERANCE_MM)), float(metrics.hd(percentile=95))


def calibration(reference: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How far probabilities can be believed, over all voxels of a case.

    Args:
        reference: `(D, H, W)` labels.
        probabilities: `(D, H, W, C)` that sum to 1.

    Returns:
        `ece`: expected calibration error of the top class, 15 equal bins, in [0, 1].
        `brier`: mean of Σ_c (p_c − y_c)², in [0, 2]. `nll`: mean −log p(label), in nats.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> undecided = np.full((2, 4, 4, 2), 0.5)
        >>> found = kdcore.calibration(np.zeros((2, 4, 4), np.uint8), undecided)
        >>> {name: round(value, 3) for name, value in found.items()}
        {'ece': 0.5, 'brier': 0.5, 'nll': 0.693}

    Reference: Guo et al. 2017, section 2, https://arxiv.org/abs/1706.04599
    """
    labels, p = reference.reshape(-1), probabilities.reshape(-1, probabilities.shape[-1])
    p = p.astype(np.result_type(p, np.float32), copy=False)
    if len(labels) != len(p):
        raise ValueError(f"Shapes {reference.shape} and {probabilities.shape} do not fit.")
    if labels.min() < 0 or labels.max() >= p.shape[-1]:
        raise ValueError(
            f"Labels run from {labels.min()} to {labels.max()}; expected 0 … {p.shape[-1] - 1}."
        )
    if not (p.min() >= -_TOLERANCE and np.allclose(p.sum(axis=-1), 1, atol=_TOLERANCE)):
        raise ValueError(
            f"Probabilities must lie in [0, 1] and sum to 1 over the classes. Received: "
            f"{p.min():.3g} … {p.max():.3g}, sums to {p.sum(axis=-1).max():.3g}."
        )
    of_label = np.take_along_axis(p, labels[:, None].astype(np.int64), axis=1)[:, 0]
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == labels
    bins = np.minimum((confidence * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    gap = np.bincount(bins, correct.astype(float) - confidence, minlength=_CALIBRATION_BINS)
    return {
        "ece": float(np.abs(gap).sum() / len(labels)),
        "brier": float(np.mean((p**2).sum(axis=1) - 2 * of_label + 1)),
        "nll": float(np.mean(-np.log(np.maximum(of_label, 1e-12)))),
    }


def evaluate(
    model: keras.Model,
    cases: Iterable[Case],
    *,
    normalization: Normalization = "percentile",
    slice_shape: tuple[int, int] | None = None,
    window: Sequence[int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    split: Split | None = None,
    part: str = "test",
) -> dict[str, Scores]:
    """Metrics of a network on whole cases.

    Args:
        model: Raw logits out; a `Distiller` is evaluated as its student. Nothing in it
            changes.
        cases: Cases with masks.
        normalization: The one the network was trained with.
        slice_shape: As for `predict_probabilities`: scores are of the cases' own voxels.
        window: As for `predict_probabilities`, for scans too large for the memory.
        regions: Labels to be scored together as well, {"whole tumour": (1, 2)}.
        split: If given, only cases of its `part` may be evaluated.
        part: "test" or "validation".

    Returns:
        `[case_id][label]` with `dice`, `surface_dice_1mm`, `hd95_mm` and `volume_ml`, what the
        network found, for each foreground label ("1", "2", ...) and each region; of cases with
        `regions`, which overlap, for each of these.

    Raises:
        ValueError: If a case has no mask, or a region's name or labels are impossible.
        LeakageError: If a case is not in that part of the split.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> model = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> scores = kdcore.evaluate(model, cases[:1], regions={"whole tumour": (1, 2)})
        >>> list(scores[cases[0].case_id])
        ['1', '2', 'whole tumour']
        >>> sorted(scores[cases[0].case_id]["1"])
        ['dice', 'hd95_mm', 'surface_dice_1mm', 'volume_ml']
    """
    return evaluate_with_calibration(
        model,
        cases,
        normalization=normalization,
        slice_shape=slice_shape,
        window=window,
        regions=regions,
        split=split,
        part=part,
    )[0]


def evaluate_with_calibration(
    model: keras.Model,
    cases: Iterable[Case],
    *,
    normalization: Normalization = "percentile",
    slice_shape: tuple[int, int] | None = None,
    window: Sequence[int] | None = None,
    regions: Mapping[str, Sequence[int]] | None = None,
    split: Split | None = None,
    part: str = "test",
) -> tuple[dict[str, Scores], dict[str, dict[str, float]]]:
    """`evaluate`, and `calibration` of each case, from one prediction."""
    if isinstance(cases, Case):
        raise ValueError(f"cases must be several: pass [case]. Received: {cases.case_id} alone.")
    scores, beliefs = {}, {}
    for case in tqdm(cases, "evaluate", leave=False, disable=None):
        if split is not None:
            split.require([case.case_id], (part,), "evaluate")
        mask = _mask_of(case)
        probabilities = predict_probabilities(model, case, normalization, slice_shape, window)
        scores[case.case_id] = evaluate_case(case, probabilities, regions)
        answers, p = as_answers(mask, probabilities, case)
        beliefs[case.case_id] = calibration(answers[answers >= 0], p[answers >= 0])
    return scores, beliefs


def agreement(
    teacher: keras.Model,
    teacher_cases: Iterable[Case],
    student: keras.Model,
    student_cases: Iterable[Case],
    normalization: Normalization = "percentile",
) -> dict[str, float]:
    """Dice between what teacher and student say, per case, mean over the labels either names.

    Args:
        teacher: A network, a `Distiller` or an exported one.
        teacher_cases: What it sees.
        student: Likewise.
        student_cases: The same cases in the same order, perhaps with fewer sequences.
        normalization: The one both were trained with.

    Returns:
        `{case_id: Dice}`; NaN where both see background alone.

    Examples:
        >>> import kdcore
        >>> from kdcore.evaluation import agreement
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> network = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> list(agreement(network, cases[:1], network, cases[:1]).values())
        [1.0]

    Reference: "fidelity" in Stanton et al. 2021, section 3, https://arxiv.org/abs/2106.05945
    """
    result = {}
    for seen, also_seen in zip(teacher_cases, student_cases, strict=True):
        a = predict_mask(teacher, seen, normalization)
        b = predict_mask(student, also_seen, normalization)
        if seen.regions is not None:
            values = [dice(x, y, 1) for x, y in zip(_each(a), _each(b), strict=True)]
            values = [value for value in values if np.isfinite(value)]
        else:
            labels = sorted((set(np.unique(a)) | set(np.unique(b))) - {0})
            values = [dice(a, b, int(label)) for label in labels]
        result[seen.case_id] = float(np.mean(values)) if values else float("nan")
    return result


def evaluate_case(
    case: Case, probabilities: np.ndarray, regions: Mapping[str, Sequence[int]] | None = None
) -> Scores:
    """The entry of one case in `evaluate`, from its `(D, H, W, C)` probabilities."""
    mask, num_classes = _mask_of(case), probabilities.shape[-1]
    if case.regions is not None:
        if regions:
            raise ValueError(
                f"{case.case_id} has regions of its own, {case.regions}, and no labels to be "
                "scored together. Leave regions out."
            )
        prediction = np.where(mask >= 0, most_probable(probabilities, case), 0)
        parts = zip(case.regions, _each(mask == 1), _each(prediction == 1), strict=True)
        return {name: _scores_of(case, a, b) for name, a, b in parts}
    if mask.max() >= num_classes:
        raise ValueError(
            f"{case.case_id} holds label {mask.max()}, but the network knows only "
            f"{num_classes} classes (0 … {num_classes - 1}). kdcore.data.relabel gives labels "
            "other numbers, and −1 to voxels that do not count."
        )
    scored = _checked_regions(regions or {}, num_classes)
    scored = {**{str(label): (label,) for label in range(1, num_classes)}, **scored}
    # Where nobody labelled, both say background.
    prediction = np.where(mask >= 0, probabilities.argmax(axis=-1), 0)
    return {
        name: _scores_of(case, np.isin(mask, labels), np.isin(prediction, labels))
        for name, labels in scored.items()
    }


def _scores_of(case: Case, reference: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    surface_dice, hd95, volume = float("nan"), float("nan"), float("nan")
    if case.has_spacing:
        surface_dice, hd95 = surface_distances(reference, prediction, 1, case.spacing_mm)
        volume = float(prediction.sum() * np.prod(case.spacing_mm) / 1000)
    return {
        "dice": dice(reference, prediction, 1),
        "surface_dice_1mm": surface_dice,
        "hd95_mm": hd95,
        "volume_ml": volume,
    }


def _each(mask: np.ndarray) -> np.ndarray:
    """(D, H, W, R) -> (R, D, H, W)."""
    return np.moveaxis(mask, -1, 0)


def absent_labels(
    cases: Iterable[Case],
    labels: Iterable[str],
    regions: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, list[str]]:
    """Cases whose reference lacks a label or region, by its name.

    A Dice says nothing there: it is undefined, or 0 where a network finds something.

    Args:
        cases: Cases with masks.
        labels: "1", "2", ...; of cases with `regions`, which overlap, names of these.
        regions: Labels that are scored together, {"whole tumour": (1, 2)}.

    Raises:
        ValueError: If a case has no mask.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> from kdcore.evaluation import absent_labels
        >>> mask = np.array([[[0, 1]]])
        >>> case = kdcore.Case("a", np.zeros((1, 1, 2, 1)), mask, spacing_mm=(1.0, 1.0, 1.0))
        >>> absent_labels([case], ["1", "2"])
        {'1': [], '2': ['a']}
    """
    cases = list(cases)
    wanted = {str(label): (label,) for label in labels} | dict(regions or {})
    return {
        name: [case.case_id for case in cases if not _holds(case, parts)]
        for name, parts in wanted.items()
    }


def _holds(case: Case, labels: Sequence[Any]) -> bool:
    mask = _mask_of(case)
    if case.regions is None:
        return bool(np.isin(mask, [int(label) for label in labels]).any())
    return any((mask[..., case.regions.index(name)] == 1).any() for name in labels)


def _mask_of(case: Case) -> np.ndarray:
    if case.mask is None:
        raise ValueError(f"{case.case_id} has no mask, so it cannot be evaluated.")
    if case.mask.max() < 0:
        raise ValueError(f"{case.case_id}: no voxel of its mask has a label, so nothing counts.")
    return case.mask


def _checked_regions(
    regions: Mapping[str, Sequence[int]], num_classes: int
) -> dict[str, tuple[int, ...]]:
    for name, labels in regions.items():
        known = all(0 < label < num_classes for label in labels)
        if not labels or not known or name.isdigit():
            raise ValueError(
                f"A region has a name that is no number and labels in 1 … {num_classes - 1}. "
                f"Received: {name!r}: {tuple(labels)}."
            )
    return {name: tuple(labels) for name, labels in regions.items()}


def labels_of(entry: Iterable[str]) -> list[str]:
    """The labels among the keys of a case's scores; the others are regions.

    Where there are none, the case has regions that overlap: these are its labels.
    """
    return [key for key in entry if key.isdigit()] or list(entry)


def case_dice(entry: Scores, lacks: Iterable[str] = ()) -> float:
    """Mean Dice of a case over the labels where it is defined; NaN if nowhere."""
    values = [entry[label]["dice"] for label in labels_of(entry) if label not in lacks]
    defined = [value for value in values if value is not None and np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


def mean_dice(
    results: dict[str, Scores], absent: Mapping[str, Iterable[str]] | None = None
) -> float:
    """Mean over cases of the mean foreground Dice; NaN if it is defined for none.

    Args:
        results: What `evaluate` returned.
        absent: Cases whose reference lacks a label, from `absent_labels`; they are left out of that
            label's mean. Without it a healthy case counts 0 if one voxel is found in it, and
            nothing otherwise, so that networks are averaged over different cases.

    Examples:
        >>> import kdcore
        >>> scores = {"a": {"1": {"dice": 0.5}, "2": {"dice": 0.7}}, "b": {"1": {"dice": 0.0}}}
        >>> round(kdcore.mean_dice(scores), 3)
        0.3
        >>> round(kdcore.mean_dice(scores, absent={"1": ["b"]}), 3)
        0.6
    """
    lacking = {label: set(cases) for label, cases in (absent or {}).items()}
    values = [
        case_dice(entry, [label for label, cases in lacking.items() if case_id in cases])
        for case_id, entry in results.items()
    ]
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


@keras.saving.register_keras_serializable("kdcore")
class ForegroundDice(keras.metrics.Metric):
    """Mean foreground Dice of integer masks and raw logits, over all voxels seen.

    To watch training; the reported Dice is `evaluate`'s, per case. Voxels with a mask of −1
    do not count, and neither do labels that occur nowhere.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> metric = kdcore.ForegroundDice(num_classes=2)
        >>> logits = np.array([[[5.0, 0.0], [0.0, 5.0], [5.0, 0.0]]])
        >>> value = metric(np.array([[0, 1, 1]]), logits)
        >>> round(float(value), 3)
        0.667
    """

    def __init__(self, num_classes: int, name: str = "dice", **kwargs: object) -> None:
        super().__init__(name=name, **kwargs)
        self.num_classes = num_classes
        labels = max(1, num_classes - 1)
        self.overlap = self.add_weight(shape=(labels,), initializer="zeros", name="overlap")
        self.size = self.add_weight(shape=(labels,), initializer="zeros", name="size")

    def update_state(
        self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> None:
        labels = range(1, max(2, self.num_classes))
        if y_pred.shape[-1] == 1:
            prediction = ops.cast(y_pred[..., 0] > 0, "int32")
        else:
            prediction = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        reference = ops.cast(y_true, "int32")
        if len(reference.shape) == len(y_pred.shape):
            if reference.shape[-1] not in (None, 1):
                raise ValueError(
                    "ForegroundDice takes one label a voxel. Received: a mask of "
                    f"{reference.shape[-1]} channels. Of regions that overlap kdcore.evaluate "
                    "gives the Dice of each."
                )
            reference = ops.squeeze(reference, axis=-1)
        weight = combine_weights(ops.cast(reference != IGNORE, "float32"), sample_weight)
        a = ops.stack([ops.cast(reference == i, "float32") for i in labels])
        b = ops.stack([ops.cast(prediction == i, "float32") for i in labels])
        axes = tuple(range(1, len(a.shape)))
        self.overlap.assign_add(ops.sum(weight * a * b, axis=axes))
        self.size.assign_add(ops.sum(weight * (a + b), axis=axes))

    def result(self) -> Tensor:
        present = ops.cast(self.size > 0, "float32")
        values = ops.divide_no_nan(2 * self.overlap, self.size)
        return ops.divide_no_nan(ops.sum(values * present), ops.sum(present))

    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "num_classes": self.num_classes}


def _pair(
    reference: np.ndarray, prediction: np.ndarray, label: int
) -> tuple[np.ndarray, np.ndarray]:
    reference, prediction = np.asarray(reference), np.asarray(prediction)
    if reference.shape != prediction.shape:
        raise ValueError(
            f"Masks of one shape are needed. Received: reference {reference.shape}, "
            f"prediction {prediction.shape}."
        )
    return reference == label, prediction == label
