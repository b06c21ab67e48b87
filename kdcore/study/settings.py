"""What the studies are about, and their settings. A smoke run is a smaller value of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from kdcore.augmentation import Augmentation
from kdcore.data import acdc, lgg
from kdcore.data.brats import read_brats
from kdcore.data.cases import Case
from kdcore.data.download import acdc_folder, hippocampus_folder
from kdcore.data.msd import read_msd
from kdcore.data.simulation.brain import LABELS, REGIONS, Simulation, simulate_cases
from kdcore.data.splits import Rule, Split

SIMULATION = Simulation(spacing_mm=3.0)
"""3 mm: the same subjects as at 2 mm, with fewer voxels than a training on a CPU can afford."""


@dataclass(frozen=True)
class Task:
    """What an experiment is about.

    Attributes:
        name: Of the data, as the tables and figures say it.
        licence: Of the data.
        cite: Where they are from.
        labels: Names of the foreground labels, {"1": "anterior", ...}.
        read: `(data_dir, count)` -> cases; `count` None means all there are.
        volume: `(D, H, W)` of a usual case, for the cost of a network.
        regions: Labels scored together, {"whole tumour": (1, 2)}.
        compared: What arms are compared by: labels, regions or "mean", the most
            important first.
        note: What a reader of a result must know about the data.
        slice_shape: `(height, width)` to which slices are brought for the networks; scores are of
            the scans' own voxels all the same. None leaves them as they are.
        split: `(cases, num_labelled)` -> the published split; None draws one.
        groups, stratify: As for `split_cases`.
        plan: Tag of the commit that holds the plan of its study; before it no test case is scored.
    """

    name: str
    licence: str
    cite: tuple[str, ...]
    labels: Mapping[str, str]
    read: Callable[[str | Path | None, int | None], list[Case]]
    volume: tuple[int, int, int]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    compared: tuple[str, ...] = ("mean",)
    note: str = ""
    slice_shape: tuple[int, int] | None = None
    split: Callable[[Sequence[Case], int], Split] | None = None
    groups: Callable[[Case | str], str] | None = None
    stratify: Rule | None = None
    plan: str = ""

    @property
    def num_classes(self) -> int:
        """Labels and background."""
        return len(self.labels) + 1

    @property
    def scored(self) -> dict[str, str]:
        """Everything that has a score of its own: `{key in a result: name}`."""
        return {**self.labels, **{region: region for region in self.regions}}

    def describe(self) -> dict[str, Any]:
        """For a results file."""
        return {
            "name": self.name,
            "licence": self.licence,
            "cite": self.cite,
            "labels": self.labels,
            "regions": self.regions,
            "note": self.note,
        }


def _hippocampus(data_dir: str | Path | None, count: int | None) -> list[Case]:
    return read_msd(hippocampus_folder(data_dir))[:count]


def _simulated(data_dir: str | Path | None, count: int | None) -> list[Case]:
    if data_dir is not None:
        raise ValueError(
            f"Simulated scans are made, not read, but a data folder was given: {data_dir}. "
            "Add --data hippocampus (or --data brats) to use it."
        )
    if count is None:
        raise ValueError("Simulated scans need a number of cases: set num_cases.")
    return simulate_cases(count, seed=0, simulation=SIMULATION)


def _brats(data_dir: str | Path | None, count: int | None) -> list[Case]:
    if data_dir is None:
        raise ValueError(
            "BraTS' scans must be asked for at the challenge, so there is no default: pass "
            "--data-dir with the folder that holds a sub-folder for each subject."
        )
    return read_brats(data_dir, spacing_mm=SIMULATION.spacing_mm)[:count]


def _acdc(data_dir: str | Path | None, count: int | None) -> list[Case]:
    return acdc.read_acdc(acdc_folder(data_dir))[:count]


def _lgg(data_dir: str | Path | None, count: int | None) -> list[Case]:
    if data_dir is None:
        raise ValueError(
            "The LGG scans are fetched at Kaggle, with an account: pass --data-dir with the folder "
            "kaggle_3m."
        )
    return lgg.read_lgg(data_dir)[:count]


TASKS = {
    "simulated": Task(
        name="simulated brain MRI with tumours",
        licence="CC BY 4.0; anatomy: MNI152, © Louis Collins, McGill University",
        cite=("https://doi.org/10.1016/j.neuroimage.2010.07.033",),
        labels=LABELS,
        read=_simulated,
        volume=SIMULATION.shape,
        regions=REGIONS,
        compared=("whole tumour", "2", "mean"),
        note="Simulated, no patient's: what holds here need not hold for real scans.",
    ),
    "hippocampus": Task(
        name="Medical Segmentation Decathlon, Task04 Hippocampus",
        licence="CC BY-SA 4.0",
        cite=("https://arxiv.org/abs/1902.09063", "https://doi.org/10.1038/s41467-022-30695-9"),
        labels={"1": "anterior", "2": "posterior"},
        read=_hippocampus,
        volume=(40, 64, 48),
        note="A case is one hemisphere; which two belong to a person is not public, so a person "
        "may be on both sides of the split.",
    ),
    "brats": Task(
        name="brain MRI of a folder named as in the BraTS challenge, at 3 mm",
        licence="that of the data",
        cite=("https://arxiv.org/abs/2107.02314",),
        labels=LABELS,
        read=_brats,
        volume=(52, 80, 80),
        regions=REGIONS,
        compared=("whole tumour", "2"),
        note="Resampled to 3 mm; scores are of that grid.",
    ),
    "acdc": Task(
        name="ACDC, cine-MRI of the heart",
        licence="CC BY-NC-SA 4.0",
        cite=("https://doi.org/10.1109/TMI.2018.2837502",),
        labels=acdc.LABELS,
        read=_acdc,
        volume=(10, 128, 128),
        note="Networks see slices of 128 × 128; scores are of the scans' own voxels. A case is one "
        "of two frames of a patient, both on one side of the split. Voxels of unknown size.",
        slice_shape=(128, 128),
        split=acdc.acdc_split,
        groups=acdc.acdc_patient,
        plan="plan-acdc",
    ),
    "lgg": Task(
        name="lower-grade gliomas (Buda et al.)",
        licence="CC BY-NC-SA 4.0",
        cite=(
            "https://doi.org/10.1016/j.compbiomed.2019.05.002",
            "https://doi.org/10.1007/s11060-017-2420-1",
        ),
        labels=lgg.LABELS,
        read=_lgg,
        volume=(36, 128, 128),
        note="Networks see slices of 128 × 128. Voxels of unknown size.",
        slice_shape=(128, 128),
        stratify=lgg.lgg_site,
        plan="plan-lgg",
    ),
}

STEPS_AN_EPOCH = 100


@dataclass(frozen=True)
class Distillation:
    """What a student gets from its teacher.

    Attributes:
        teacher: The arm whose soft targets it learns from.
        unlabelled: Whether the unlabelled training cases are used as well.
        labelled_share: Share of labelled slices in its batches, if they are; None draws all
            slices alike.
        temperature, alpha: As for `Distiller`; alpha weighs the soft loss.
        soft_loss: "regional", "kl", "channel-wise" or "pseudo-labels".
        online: Run the teacher along instead of reading its soft targets from disk.
        hints: Pairs (layer of the student, layer of the teacher); the teacher runs along.
    """

    teacher: str = "teacher"
    unlabelled: bool = True
    labelled_share: float | None = 0.25
    temperature: float = 2.0
    alpha: float = 0.9
    soft_loss: str = "regional"
    online: bool = False
    hints: tuple[tuple[str, str], ...] = ()


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
        foreground_share: As for `Batches`.
        distillation: None for an arm that learns from labels alone.
        label_smoothing: ε of the hard loss.
        member: Another number is another start and order: for the members of an ensemble.
        members: Arms whose calibrated ensemble this is; it is not trained itself.
    """

    filters: int
    steps: int
    learning_rate: float
    shape: tuple[int, ...] = (64, 48)
    batch_size: int = 16
    sequences: tuple[str, ...] | None = None
    foreground_share: float | None = None
    distillation: Distillation | None = None
    label_smoothing: float = 0.0
    member: int = 0
    members: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """The arms that must be trained before."""
        return self.members + ((self.distillation.teacher,) if self.distillation else ())


@dataclass(frozen=True)
class Config:
    """Settings of one experiment; see `STUDIES` for the values.

    Attributes:
        task: Name of one of `TASKS`.
        num_labelled, num_validation, num_test: Cases, of ACDC patients; the others are unlabelled.
        arms: How each arm is trained; a teacher stands before its students.
        num_cases: Use only the first so many cases; None uses all.
        depth: Of the U-Nets.
        augmentation: Of all arms alike.
        pairs: Arms to be compared besides students with their baseline and teacher.
    """

    task: str
    num_labelled: int
    num_validation: int
    num_test: int
    arms: Mapping[str, Training]
    num_cases: int | None = None
    depth: int = 3
    augmentation: Augmentation = field(default_factory=Augmentation)
    pairs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        known: list[str] = []
        for name, arm in self.arms.items():
            missing = [needed for needed in arm.needs if needed not in known]
            if missing:
                raise ValueError(
                    f"{name} needs {missing}, which are none of the arms before it: {known}."
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
    frames = 1 if TASKS[config.task].groups is None else 2  # of each patient
    return replace(
        config,
        arms=arms,
        depth=1,
        num_cases=10 * frames,
        num_labelled=2,
        num_validation=2,
        num_test=3,
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
_SOUGHT = replace(_T1, foreground_share=0.66)
TUTORIAL = replace(
    CROSS_MODAL,
    num_labelled=8,
    arms={
        "teacher": CROSS_MODAL.arms["teacher"],
        "student": replace(_SOUGHT, distillation=Distillation()),
        "baseline": _SOUGHT,
        "pseudo-labels": replace(_SOUGHT, distillation=Distillation(soft_loss="pseudo-labels")),
    },
    pairs=(("student", "pseudo-labels"),),
)
BRATS = replace(
    CROSS_MODAL,
    task="brats",
    num_cases=None,
    arms={name: replace(arm, shape=(80, 80)) for name, arm in CROSS_MODAL.arms.items()},
)


# Of 7 patients the networks must get all they can: with the usual augmentation the baseline's
# validation Dice is 0.07 lower (docs/design.md).
STRONG = Augmentation(
    rotate_deg=30.0,
    scale=0.25,
    shift=8.0,
    elastic=2.0,
    gamma=0.5,
    noise=0.1,
    geometric_share=0.9,
)


def _benchmark() -> Config:
    """ACDC by its standard split: what the teacher, its softness and a second teacher are worth."""
    teacher = Training(32, steps=2000, learning_rate=5e-3, shape=(128, 128), batch_size=8)
    plain = Training(8, steps=2000, learning_rate=1e-2, shape=(128, 128))

    def taught(of: Training = plain, **settings: Any) -> Training:
        return replace(of, distillation=Distillation(**settings))

    arms = {
        "teacher": teacher,
        "baseline": plain,
        "student": taught(),
        "pseudo-labels": taught(soft_loss="pseudo-labels"),
        "teacher-2": taught(teacher),
        "student-2": taught(teacher="teacher-2"),
        "baseline-long": replace(plain, steps=3 * plain.steps),
        "student-labelled": taught(unlabelled=False),
        "self": taught(teacher="baseline"),
    }
    return Config(
        task="acdc",
        num_labelled=7,
        num_validation=10,
        num_test=20,
        arms=arms,
        augmentation=STRONG,
        pairs=(
            ("student", "pseudo-labels"),
            ("student-2", "student"),
            ("student", "student-labelled"),
            ("student", "self"),
            ("student", "baseline-long"),
        ),
    )


BENCHMARK = _benchmark()

# Nothing is tuned on these scans: augmentation, rates and steps are those of the ACDC study.
_LGG_T1 = replace(_SOUGHT, shape=(128, 128), steps=2000)
_LGG_SEES_ALL = Training(
    16, steps=2000, learning_rate=5e-3, shape=(128, 128), batch_size=8, foreground_share=0.66
)
LGG = Config(
    task="lgg",
    num_labelled=10,
    num_validation=10,
    num_test=20,
    arms={
        "teacher": _LGG_SEES_ALL,
        "baseline": _LGG_T1,
        "student": replace(_LGG_T1, distillation=Distillation()),
        "pseudo-labels": replace(_LGG_T1, distillation=Distillation(soft_loss="pseudo-labels")),
        "student-labelled": replace(_LGG_T1, distillation=Distillation(unlabelled=False)),
    },
    augmentation=STRONG,
    pairs=(("student", "pseudo-labels"), ("student", "student-labelled")),
)


def _evidence(main: Config, flat_teacher: Training, middle: str = "bottleneck_relu1") -> Config:
    """The arms of the published study, from those of the main job."""
    teacher, plain = main.arms["teacher"], main.arms["baseline"]
    larger = replace(plain, filters=9, learning_rate=1e-2)  # about 150 k parameters

    def taught(teacher: str = "teacher", of: Training = plain, **settings: Any) -> Training:
        return replace(of, distillation=Distillation(teacher, **settings))

    arms = {
        "teacher": teacher,
        "baseline": plain,
        "student": taught(),
        "teacher-1": replace(teacher, member=1),
        "teacher-2": replace(teacher, member=2),
        "ensemble": replace(teacher, steps=0, members=("teacher", "teacher-1", "teacher-2")),
        "student-ensemble": taught("ensemble"),
        "student-labelled": taught(unlabelled=False),
        "label-smoothing": replace(plain, label_smoothing=0.1),
        "self": taught("baseline"),
        "channel-wise": taught(soft_loss="channel-wise", temperature=4.0),
        "baseline-150k": larger,
        "student-150k": taught(of=larger),
        "student-ensemble-150k": taught("ensemble", of=larger),
        "teacher-2d": flat_teacher,
        "student-2d": taught("teacher-2d"),
        "online-2d": taught("teacher-2d", online=True),
        "hints-2d": taught("teacher-2d", hints=((middle, middle),)),
    }
    return replace(main, arms=arms)


def _ablation(main: Config) -> Config:
    """The student at every temperature and alpha."""
    plain = main.arms["baseline"]
    students = {
        f"T{temperature}-alpha{alpha:g}": replace(
            plain, distillation=Distillation(temperature=float(temperature), alpha=alpha)
        )
        for temperature in (1, 2, 4, 8)
        for alpha in (0.1, 0.5, 0.9, 1.0)
    }
    return replace(main, arms={"teacher": main.arms["teacher"], "baseline": plain, **students})


_FLAT = Training(filters=16, steps=1200, learning_rate=5e-3)
_CORE = ("teacher", "baseline", "student")
_SECOND = (*_CORE, "student-ensemble", "label-smoothing", "self", "channel-wise", "student-150k")
_CROSS_VALIDATION = tiers(replace(HIPPOCAMPUS, num_test=40))
_CROSS_VALIDATION["smoke"] = replace(_CROSS_VALIDATION["smoke"], num_test=2)
STUDIES = {
    "main": {"simulated": tiers(SIMULATED), "hippocampus": tiers(HIPPOCAMPUS)},
    "tutorial": {"simulated": tiers(TUTORIAL)},
    "cross-modal": {
        "simulated": tiers(CROSS_MODAL),
        "brats": tiers(BRATS),
        "lgg": tiers(LGG),
    },
    "evidence": {
        "hippocampus": tiers(_evidence(HIPPOCAMPUS, _FLAT)),
        "simulated": tiers(_evidence(SIMULATED, replace(_FLAT, shape=(64, 56)))),
    },
    "ablation": {
        "hippocampus": tiers(_ablation(HIPPOCAMPUS)),
        "simulated": tiers(_ablation(SIMULATED)),
    },
    "cross-validation": {"hippocampus": _CROSS_VALIDATION},
    "benchmark": {"acdc": tiers(BENCHMARK)},
}
"""`[study][data][tier]`; the first data set of a study is its default."""
PLANS: dict[str, list[tuple[int | None, tuple[str, ...] | None]]] = {
    "evidence": [
        (8, _CORE),
        (120, _CORE),
        (8, None),
        (120, (*_SECOND, "baseline-150k")),
        (20, _CORE),
        (50, _CORE),
    ],
    "cross-validation": [(8, None), (140, None)],
    "benchmark": [
        (7, (*_CORE, "pseudo-labels", "teacher-2", "student-2")),
        (3, _CORE),
        (7, None),
        (3, None),
        (1, None),
        (70, _CORE),
    ],
}
"""`(number of labelled cases, arms)` in the order they are run; None means those of the config."""
FOLDS = {"cross-validation": 5}
"""Of the studies in which each case is tested once; the others have one split."""
