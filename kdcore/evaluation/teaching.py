"""Is the teacher teaching? Distillation fails silently, so it is measured."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from kdcore.data.cases import Case
from kdcore.data.splits import Split
from kdcore.evaluation.metrics import dice
from kdcore.inference import predict_probabilities
from kdcore.losses import check_temperature, kd_loss, soft_dice_loss
from kdcore.normalization import Normalization
from kdcore.soft_targets import SoftTargets, teacher_probabilities

_DOUBT = 0.01  # nats: a voxel where the teacher is not quite sure
_COLLAPSED = 0.05  # mean foreground Dice
_FOLLOWS = 0.7  # agreement on training scans


@dataclass(frozen=True)
class Fidelity:
    """How closely a student follows its teacher; see `fidelity`.

    Attributes:
        agreement: Mean foreground Dice between student and teacher.
        background_kl: T² · mean KL divergence over the voxels that the teacher calls background,
            in nats.
        foreground_kl: Likewise over those that it calls something else.
        dice_loss: Mean of 1 − soft Dice between the foreground probabilities, over the scans'
            classes: the second part of `regional_kd_loss`, taken over whole scans.

    Examples:
        >>> from kdcore.evaluation import Fidelity
        >>> print(Fidelity(0.9, 0.01, 0.2, 0.1))
        agreement 0.900; soft loss: KL 0.010 in the background, 0.200 in the foreground, Dice 0.100
    """

    agreement: float
    background_kl: float
    foreground_kl: float
    dice_loss: float

    def __str__(self) -> str:
        return (
            f"agreement {self.agreement:.3f}; soft loss: KL {self.background_kl:.3f} in the "
            f"background, {self.foreground_kl:.3f} in the foreground, Dice {self.dice_loss:.3f}"
        )


@dataclass(frozen=True)
class TeachingReport:
    """What `check_teaching` found.

    Attributes:
        teacher_dice: Mean foreground Dice of the teacher over the cases.
        student_dice: Likewise of the student.
        baseline_dice: Likewise of the baseline, or None.
        agreement: Mean foreground Dice between student and teacher.
        agreement_before: Likewise before training, or None.
        zero_gradient_share: Share of the voxels where the teacher is in doubt whose soft
            gradient T · (q − p) vanishes (below 1e-6).
        soft_target_entropy: Mean entropy at T over voxels that are not background for
            teacher or student, in nats.
        highest_entropy: log of the number of classes.
        problems: One sentence each; empty if the teacher teaches.
        training: How closely the student follows its teacher where it learned, or None.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> network = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> other = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> report = kdcore.check_teaching(network, other, cases[:1])
        >>> round(report.highest_entropy, 3)
        1.099
    """

    teacher_dice: float
    student_dice: float
    baseline_dice: float | None
    agreement: float
    agreement_before: float | None
    zero_gradient_share: float
    soft_target_entropy: float
    highest_entropy: float
    problems: tuple[str, ...]
    training: Fidelity | None = None

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For a results file."""
        return asdict(self)

    def __str__(self) -> str:
        def number(value: float | None) -> str:
            return "not given" if value is None else f"{value:.3f}"

        lines = [
            "Is the teacher teaching? " + ("Yes." if self.ok else "Not as it should."),
            f"  Dice            teacher {number(self.teacher_dice)}, student "
            f"{number(self.student_dice)}, baseline {number(self.baseline_dice)}",
            f"  agreement       {number(self.agreement_before)} before, "
            f"{number(self.agreement)} after training (Dice of student with teacher)",
            f"  soft gradient   zero in {self.zero_gradient_share:.1%} of the voxels where "
            "the teacher is in doubt",
            f"  soft targets    entropy {self.soft_target_entropy:.3f} nats in the "
            f"foreground, {self.highest_entropy:.3f} at most",
        ]
        if self.training is not None:
            lines.append(f"  training scans  {self.training}")
        return "\n".join(lines + [f"  ! {problem}" for problem in self.problems])


def fidelity(
    student: keras.Model,
    cases: Iterable[Case],
    soft_targets: Mapping[str, np.ndarray] | SoftTargets,
    *,
    temperature: float = 2.0,
    normalization: Normalization = "percentile",
) -> Fidelity:
    """How closely a student follows its teacher, on the very scans it learned from.

    A student that does not follow its teacher there has not learned what it was taught: more steps,
    a better start or a larger network are due. One that follows there and not on other scans
    needs more scans. Masks are not looked at.

    Args:
        student: The trained student or its `Distiller`.
        cases: Training cases, as the student sees them.
        soft_targets: Log-probabilities `(D, H, W, C)` by case id, as `SoftTargets` holds them.
        temperature: T of the training.
        normalization: Of the images.

    Raises:
        KeyError: If a case has no soft target.
        ValueError: If there are no cases, or the classes differ.

    Examples:
        >>> import kdcore
        >>> from kdcore.evaluation import fidelity
        >>> cases = kdcore.simulate_cases(1, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> teacher = kdcore.unet((32, 28, 4), num_classes=3, filters=4, depth=1)
        >>> soft_targets = kdcore.SoftTargets.write(teacher, cases, "runs/soft-targets")
        >>> close = fidelity(teacher, cases, soft_targets)
        >>> close.agreement > 0.9, round(close.foreground_kl, 2)  # itself, but for float16
        (True, 0.0)

    Reference: Stanton et al. 2021, section 3, https://arxiv.org/abs/2106.05945
    """
    temperature = check_temperature(temperature)
    sums: dict[str, list[float]] = {name: [] for name in ("agreement", "dice")}
    divergence, voxels = np.zeros(2), np.zeros(2)
    for case in cases:
        _refuse_regions(case, "fidelity")
        log_p = np.asarray(soft_targets[case.case_id], np.float32)
        p, q = np.exp(log_p), predict_probabilities(student, case, normalization)
        if p.shape != q.shape:
            raise ValueError(
                f"{case.case_id}: soft targets of shape {p.shape}, but the student gives {q.shape}."
            )
        p /= p.sum(axis=-1, keepdims=True)
        log_q, found = np.log(np.maximum(q, 1e-30)), p.argmax(axis=-1) > 0
        for part, where in enumerate((~found, found)):
            mean = kd_loss(log_p[None], log_q[None], temperature, where[None])
            divergence[part] += float(mean) * where.sum()
            voxels[part] += where.sum()
        sums["agreement"].append(_score(p.argmax(axis=-1), q))
        sums["dice"].append(float(soft_dice_loss(p[None, ..., 1:], q[None, ..., 1:])))
    if not voxels.any():
        raise ValueError("fidelity needs at least one case.")
    background, foreground = (
        float(total / count) if count else float("nan")
        for total, count in zip(divergence, voxels, strict=True)
    )
    return Fidelity(_nanmean(sums["agreement"]), background, foreground, _nanmean(sums["dice"]))


def check_teaching(
    teacher: Any,
    student: keras.Model,
    cases: Iterable[Case],
    *,
    teacher_cases: Iterable[Case] | None = None,
    baseline: keras.Model | None = None,
    student_before: keras.Model | None = None,
    training: Fidelity | None = None,
    temperature: float = 2.0,
    normalization: Normalization = "percentile",
    split: Split | None = None,
) -> TeachingReport:
    """Say in words and numbers whether a teacher teaches its student.

    Args:
        teacher: What was passed to `Distiller` or `SoftTargets.write`.
        student: The trained student or its `Distiller`.
        cases: Validation cases with masks, as the student sees them.
        teacher_cases: The same cases in the same order as the teacher sees them, if it sees
            other sequences.
        baseline: The same student trained without a teacher.
        student_before: The student as it was before training.
        training: `fidelity` on scans the student learned from; it tells a student that has not
            learned what it was taught from one that lacks scans.
        temperature: T of the training.
        normalization: Of the images.
        split: If given, only validation cases may be used.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> teacher = kdcore.unet((32, 28, 4), num_classes=3, filters=4, depth=1)
        >>> student = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> report = kdcore.check_teaching(teacher, student, cases[:1], temperature=2.0)
        >>> len(report.problems) > 0  # neither has been trained
        True
    """
    temperature = check_temperature(temperature)
    rows: list[dict[str, float]] = []
    classes = 2
    cases = list(cases)
    for case, seen in zip(cases, cases if teacher_cases is None else teacher_cases, strict=True):
        _refuse_regions(case, "check_teaching")
        if seen.case_id != case.case_id:
            raise ValueError(
                f"The teacher sees {seen.case_id} where the student sees {case.case_id}. Pass "
                "teacher_cases in the order of cases."
            )
        if split is not None:
            split.require([case.case_id], ("validation",), "check_teaching")
        p = teacher_probabilities(teacher, seen, normalization)
        q = predict_probabilities(student, case, normalization)
        classes = p.shape[-1]
        row = _soft_numbers(p, q, temperature)
        row |= {"teacher": _score(case.mask, p), "student": _score(case.mask, q)}
        row["agreement"] = _score(p.argmax(-1), q)
        for name, model in {"baseline": baseline, "before": student_before}.items():
            if model is not None:
                other = predict_probabilities(model, case, normalization)
                reference = case.mask if name == "baseline" else p.argmax(-1)
                row[name] = _score(reference, other)
        rows.append(row)
    if not rows:
        raise ValueError("check_teaching needs at least one validation case.")
    numbers = {key: _nanmean([row[key] for row in rows]) for key in rows[0]}
    return TeachingReport(
        teacher_dice=numbers["teacher"],
        student_dice=numbers["student"],
        baseline_dice=numbers.get("baseline"),
        agreement=numbers["agreement"],
        agreement_before=numbers.get("before"),
        zero_gradient_share=numbers["zero"],
        soft_target_entropy=numbers["entropy"],
        highest_entropy=float(np.log(classes)),
        problems=tuple(_problems(numbers, classes, training)),
        training=training,
    )


def _refuse_regions(case: Case, what: str) -> None:
    if case.regions is not None:
        raise ValueError(
            f"{what} is of classes that exclude each other; {case.case_id} has the regions "
            f"{case.regions}, which overlap. Compare teacher, student and baseline by evaluate and "
            "kdcore.evaluation.agreement."
        )


def _problems(
    numbers: dict[str, float], classes: int, training: Fidelity | None = None
) -> list[str]:
    found = []
    if not numbers["teacher"] >= _COLLAPSED:
        found.append("The teacher segments nothing. Train it first, and check its labels.")
    if not numbers["student"] >= _COLLAPSED:
        found.append("The student collapsed to background. See kdcore.regional_kd_loss.")
    if "baseline" in numbers and numbers["teacher"] <= numbers["baseline"]:
        found.append(
            f"The teacher (Dice {numbers['teacher']:.3f}) is no better than the baseline "
            f"({numbers['baseline']:.3f}), so there is little to learn from it."
        )
    if "baseline" in numbers and numbers["student"] < numbers["baseline"]:
        found.append("The distilled student is below the baseline on these cases.")
    if "before" in numbers and numbers["agreement"] <= numbers["before"]:
        found.append("The student agrees with the teacher no more than before training.")
    if numbers["zero"] > 0.5:
        found.append(
            f"The soft gradient is zero in {numbers['zero']:.0%} of the voxels in doubt. Are "
            "probabilities passed as logits, or a one-channel network through softmax?"
        )
    if numbers["entropy"] < 1e-3:
        found.append("The soft targets are one-hot, so they say no more than labels do.")
    if numbers["entropy"] > 0.95 * np.log(classes):
        found.append("The soft targets are almost uniform. Lower the temperature.")
    gains = numbers["student"] > numbers.get("baseline", numbers["student"])
    if training is not None and not training.agreement >= _FOLLOWS and not gains:
        found.append(
            f"Where it learned, the student agrees with its teacher by {training.agreement:.2f} "
            "only: it does not follow yet. Train longer, start from the baseline's weights, or "
            "take a larger network. What its input does not show, no training brings."
        )
    return found


def _soft_numbers(p: np.ndarray, q: np.ndarray, temperature: float) -> dict[str, float]:
    soft_p, soft_q = soften(p, temperature), soften(q, temperature)
    entropy = -(soft_p * np.log(np.maximum(soft_p, 1e-30))).sum(axis=-1)
    gradient = temperature * np.abs(soft_q - soft_p).max(axis=-1)
    doubtful = entropy > _DOUBT
    foreground = (p.argmax(-1) > 0) | (q.argmax(-1) > 0)
    return {
        "zero": float((gradient[doubtful] < 1e-6).mean()) if doubtful.any() else float("nan"),
        "entropy": float(entropy[foreground].mean()) if foreground.any() else float("nan"),
    }


def soften(p: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities `(..., C)` at temperature T: p^(1/T), normalized."""
    powered = np.maximum(p, 1e-30) ** (1.0 / temperature)
    return np.asarray(powered / powered.sum(axis=-1, keepdims=True))


def _score(reference: np.ndarray | None, probabilities: np.ndarray) -> float:
    if reference is None:
        raise ValueError("check_teaching needs cases with masks.")
    prediction = np.where(reference >= 0, probabilities.argmax(axis=-1), 0)
    return _nanmean([dice(reference, prediction, k) for k in range(1, probabilities.shape[-1])])


def _nanmean(values: list[float]) -> float:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")
