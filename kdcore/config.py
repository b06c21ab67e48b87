"""Settings of the studies. The smoke run is a smaller value of them, not another path."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from kdcore.augmentation import Augmentation

STEPS_AN_EPOCH = 100


@dataclass(frozen=True)
class Distillation:
    """What a student gets from its teacher.

    Attributes:
        teacher: The arm whose soft targets it learns from.
        unlabelled: Whether the unlabelled training cases are used as well.
        labelled_share: Share of labelled slices in its batches, if they are.
        temperature, alpha: As for `Distiller`; alpha weighs the soft loss.
    """

    teacher: str = "teacher"
    unlabelled: bool = True
    labelled_share: float = 0.25
    temperature: float = 2.0
    alpha: float = 0.9


@dataclass(frozen=True)
class Training:
    """How one arm is trained.

    Attributes:
        filters: Filters of the U-Net's first level.
        steps: Gradient steps.
        learning_rate: Highest rate of Adam; warm-up, then cosine decay to a hundredth.
        shape: `(height, width)` of slices, or `(depth, height, width)` of patches, in
            voxels; it decides whether the U-Net is 2-D or 3-D.
        batch_size: Slices or patches a step.
        sequences: The sequences it sees; None means all.
        distillation: None for an arm that learns from labels alone.
    """

    filters: int
    steps: int
    learning_rate: float
    shape: tuple[int, ...] = (64, 48)
    batch_size: int = 16
    sequences: tuple[str, ...] | None = None
    distillation: Distillation | None = None


@dataclass(frozen=True)
class Config:
    """Settings of one experiment; see `STUDIES` for the values.

    Attributes:
        task: Name of one of `TASKS`.
        num_labelled, num_validation, num_test: Cases; the others are unlabelled.
        arms: How each arm is trained; a teacher stands before its students.
        num_cases: Use only the first so many cases; None uses all.
        depth: Of the U-Nets.
        augmentation: Of all arms alike.
    """

    task: str
    num_labelled: int
    num_validation: int
    num_test: int
    arms: Mapping[str, Training]
    num_cases: int | None = None
    depth: int = 3
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        known: list[str] = []
        for name, arm in self.arms.items():
            if arm.distillation is not None and arm.distillation.teacher not in known:
                raise ValueError(
                    f"The teacher of {name} is {arm.distillation.teacher!r}, which is none of the "
                    f"arms before it: {known}."
                )
            known.append(name)


def describe(config: Config) -> dict[str, Any]:
    """The settings as JSON values."""
    return asdict(config)


_STUDENT = Training(filters=4, steps=2000, learning_rate=2e-2)
HIPPOCAMPUS = Config(
    task="hippocampus",
    num_labelled=8,
    num_validation=20,
    num_test=60,
    arms={
        "teacher": Training(10, steps=1200, learning_rate=5e-3, shape=(32, 48, 32), batch_size=2),
        "student": replace(_STUDENT, distillation=Distillation()),
        "baseline": _STUDENT,
    },
)


def longer(config: Config, factor: int) -> Config:
    """Every arm trained `factor` times as long."""
    arms = {k: replace(arm, steps=factor * arm.steps) for k, arm in config.arms.items()}
    return replace(config, arms=arms)


def smoke(config: Config) -> Config:
    """Ten cases, a few steps and filters: to see that it runs."""
    arms = {
        name: replace(
            arm,
            filters=max(2, arm.filters // 2),
            steps=4,
            shape=(8, 32, 24)[-len(arm.shape) :],
            batch_size=min(4, arm.batch_size),
        )
        for name, arm in config.arms.items()
    }
    return replace(
        config, arms=arms, depth=1, num_cases=10, num_labelled=2, num_validation=2, num_test=3
    )


def tiers(quick: Config) -> dict[str, Config]:
    """The three sizes of an experiment."""
    return {"smoke": smoke(quick), "quick": quick, "full": longer(quick, 3)}


_SIMULATED_STUDENT = Training(filters=4, steps=1500, learning_rate=2e-2, shape=(64, 56))
SIMULATED = Config(
    task="simulated",
    num_cases=200,
    num_labelled=8,
    num_validation=20,
    num_test=60,
    arms={
        "teacher": Training(filters=16, steps=1200, learning_rate=5e-3, shape=(64, 56)),
        "student": replace(_SIMULATED_STUDENT, distillation=Distillation()),
        "baseline": _SIMULATED_STUDENT,
    },
)
# One network for all: the arms differ in what they see, not in size.
_T1 = Training(filters=8, steps=1500, learning_rate=1e-2, shape=(64, 56), sequences=("T1",))
CROSS_MODAL = Config(
    task="simulated",
    num_cases=240,
    num_labelled=20,
    num_validation=20,
    num_test=60,
    arms={
        "teacher": Training(filters=8, steps=1000, learning_rate=1e-2, shape=(64, 56)),
        "baseline": _T1,
        "student": replace(_T1, distillation=Distillation()),
        "student-labelled": replace(_T1, distillation=Distillation(unlabelled=False)),
    },
)
BRATS = replace(
    CROSS_MODAL,
    task="brats",
    num_cases=None,
    arms={name: replace(arm, shape=(80, 80)) for name, arm in CROSS_MODAL.arms.items()},
)
STUDIES = {
    "main": {"simulated": tiers(SIMULATED), "hippocampus": tiers(HIPPOCAMPUS)},
    "cross-modal": {"simulated": tiers(CROSS_MODAL), "brats": tiers(BRATS)},
}
"""`[study][data][tier]`; the first data set of a study is its default."""
