"""Settings of the main job. The smoke run is a smaller value of them, not another path."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kdcore.augmentation import Augmentation

ARMS = ("teacher", "student", "baseline")
NUM_CLASSES = 3
STEPS_AN_EPOCH = 100
VOLUME = (40, 64, 48)
"""A usual volume, for the cost of a network."""
DATA = {
    "name": "Medical Segmentation Decathlon, Task04 Hippocampus",
    "licence": "CC BY-SA 4.0",
    "cite": ["https://arxiv.org/abs/1902.09063", "https://doi.org/10.1038/s41467-022-30695-9"],
    "labels": {"1": "anterior", "2": "posterior"},
}


@dataclass(frozen=True)
class Training:
    """How one arm is trained.

    Attributes:
        filters: Filters of the U-Net's first level.
        steps: Gradient steps.
        learning_rate: Highest rate of AdamW; warm-up, then cosine decay to a hundredth.
        shape: `(height, width)` of slices, or `(depth, height, width)` of patches, in
            voxels; it decides whether the U-Net is 2-D or 3-D.
        batch_size: Slices or patches a step.
    """

    filters: int
    steps: int
    learning_rate: float
    shape: tuple[int, ...] = (64, 48)
    batch_size: int = 16


@dataclass(frozen=True)
class Config:
    """Settings of the main job; see `TIERS` for the values.

    Attributes:
        data: Name of the data set.
        num_labelled, num_validation, num_test: Cases; the others are unlabelled.
        num_cases: Use only the first so many cases; None uses all.
        teacher, student, baseline: How each arm is trained.
        depth: Of the U-Nets.
        labelled_share: Share of labelled slices in the student's batches.
        temperature, alpha: Of the distillation; alpha weighs the soft loss.
        augmentation: Of all arms alike.
    """

    data: str
    num_labelled: int
    num_validation: int
    num_test: int
    teacher: Training
    student: Training
    baseline: Training
    num_cases: int | None = None
    depth: int = 3
    labelled_share: float = 0.25
    temperature: float = 2.0
    alpha: float = 0.9
    augmentation: Augmentation = field(default_factory=Augmentation)


QUICK = Config(
    data="hippocampus",
    num_labelled=8,
    num_validation=20,
    num_test=60,
    teacher=Training(filters=10, steps=1200, learning_rate=5e-3, shape=(32, 48, 32), batch_size=2),
    student=Training(filters=4, steps=2000, learning_rate=2e-2),
    baseline=Training(filters=4, steps=2000, learning_rate=2e-2),
)
FULL = replace(
    QUICK,
    teacher=replace(QUICK.teacher, steps=3600),
    student=replace(QUICK.student, steps=6000),
    baseline=replace(QUICK.baseline, steps=6000),
)
_SMALL = Training(filters=2, steps=4, learning_rate=1e-2, shape=(32, 24), batch_size=4)
SMOKE = replace(
    QUICK,
    num_cases=10,
    num_labelled=2,
    num_validation=2,
    num_test=3,
    depth=1,
    teacher=replace(_SMALL, filters=8, shape=(8, 32, 24), batch_size=2),
    student=_SMALL,
    baseline=_SMALL,
)
TIERS = {"smoke": SMOKE, "quick": QUICK, "full": FULL}


def describe(config: Config) -> dict[str, Any]:
    """The settings as JSON values."""
    return asdict(config)
