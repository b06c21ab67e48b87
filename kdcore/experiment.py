"""The main job as settings and functions: teacher -> soft targets -> student, baseline.

The examples walk through it step by step; `train` is the same in one call, for studies
over many seeds.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from kdcore.augmentation import Augmentation
from kdcore.batches import Batches
from kdcore.cases import Case, read_msd
from kdcore.datasets import hippocampus_folder
from kdcore.distiller import Distiller
from kdcore.files import digest
from kdcore.losses import DiceCrossEntropy
from kdcore.metrics import evaluate, mean_dice
from kdcore.runs import Run
from kdcore.soft_targets import SoftTargets
from kdcore.splits import Split, split_cases
from kdcore.unet import unet

ARMS = ("teacher", "student", "baseline")
NUM_CLASSES = 3
STEPS_AN_EPOCH = 100
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
    """

    filters: int
    steps: int
    learning_rate: float


@dataclass(frozen=True)
class Config:
    """Settings of the main job; see `TIERS` for the values.

    Attributes:
        data: Name of the data set.
        num_labelled, num_validation, num_test: Cases; the others are unlabelled.
        num_cases: Use only the first so many cases; None uses all.
        teacher, student, baseline: How each arm is trained.
        shape: Height and width of a slice, in voxels.
        depth: Of the U-Nets.
        batch_size: Slices a step.
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
    shape: tuple[int, int] = (64, 48)
    depth: int = 3
    batch_size: int = 16
    labelled_share: float = 0.5
    temperature: float = 2.0
    alpha: float = 0.5
    augmentation: Augmentation = field(default_factory=Augmentation)


QUICK = Config(
    data="hippocampus",
    num_labelled=8,
    num_validation=20,
    num_test=60,
    teacher=Training(filters=16, steps=1000, learning_rate=1e-3),
    student=Training(filters=4, steps=1500, learning_rate=1e-2),
    baseline=Training(filters=4, steps=1500, learning_rate=1e-2),
)
FULL = replace(
    QUICK,
    teacher=replace(QUICK.teacher, steps=3000),
    student=replace(QUICK.student, steps=4500),
    baseline=replace(QUICK.baseline, steps=4500),
)
_SMALL = Training(filters=2, steps=4, learning_rate=1e-2)
SMOKE = replace(
    QUICK,
    num_cases=10,
    num_labelled=2,
    num_validation=2,
    num_test=3,
    depth=1,
    teacher=replace(_SMALL, filters=8),
    student=_SMALL,
    baseline=_SMALL,
    batch_size=4,
)
TIERS = {"smoke": SMOKE, "quick": QUICK, "full": FULL}


class Experiment:
    """Data, split and run folders of one configuration.

    Args:
        config: The settings.
        tier: Their name, for the folder.
        root: Folder of all runs.
        data_dir: Folder of the data; see `hippocampus_folder`.
    """

    def __init__(
        self,
        config: Config = QUICK,
        tier: str = "quick",
        root: str | Path = "runs",
        data_dir: str | Path | None = None,
    ) -> None:
        self.config, self.tier, self.data_dir = config, tier, data_dir
        self.root = Path(root) / f"{config.data}-{tier}"

    @cached_property
    def cases(self) -> list[Case]:
        """All cases of the data set, sorted by id."""
        cases = read_msd(hippocampus_folder(self.data_dir))
        return cases[: self.config.num_cases]

    def split(self, seed: int = 0) -> Split:
        """Validation and test are the same for all seeds; labelled cases are drawn anew."""
        config = self.config
        split = split_cases(
            [case for case in self.cases if case.mask is not None],
            config.num_labelled,
            config.num_validation,
            config.num_test,
        )
        return split if seed == 0 else split.redraw_labelled(seed)

    def take(self, part: str, seed: int = 0) -> list[Case]:
        """The cases of one part of the split."""
        return self.split(seed).take(self.cases, part)

    def network(self, arm: str, seed: int) -> keras.Model:
        """The arm's U-Net; student and baseline of one seed start from the same weights."""
        keras.utils.set_random_seed(seed)
        config = self.config
        filters = self.training(arm).filters
        return unet((*config.shape, 1), NUM_CLASSES, filters, config.depth, name=arm)

    def training(self, arm: str) -> Training:
        """The arm's settings."""
        if arm not in ARMS:
            raise ValueError(f"arm must be one of {ARMS}. Received: {arm!r}.")
        training: Training = getattr(self.config, arm)
        return training

    def compile(self, model: keras.Model, arm: str) -> keras.Model:
        """Compile with the arm's optimizer and the hard loss, and return the model."""
        training = self.training(arm)
        warmup = min(100, max(1, training.steps // 10))
        rate = keras.optimizers.schedules.CosineDecay(
            0.0,
            max(1, training.steps - warmup),
            alpha=0.01,
            warmup_target=training.learning_rate,
            warmup_steps=warmup,
        )
        steps_an_epoch = min(STEPS_AN_EPOCH, training.steps)
        model.compile(
            optimizer=keras.optimizers.AdamW(rate, weight_decay=0.0),
            loss=DiceCrossEntropy(),
            # Fewer returns to Python; on a CPU XLA is slower than TensorFlow's kernels.
            steps_per_execution=min(25, steps_an_epoch),
            jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
        )
        return model

    def epochs(self, arm: str) -> int:
        """Epochs of `STEPS_AN_EPOCH` steps."""
        return max(1, self.training(arm).steps // STEPS_AN_EPOCH)

    def batches(self, arm: str, seed: int, soft_targets: SoftTargets | None = None) -> Batches:
        """The student sees labelled and unlabelled slices, the others labelled ones."""
        config = self.config
        cases = self.take("labelled", seed)
        if soft_targets is not None:
            cases = cases + self.take("unlabelled", seed)
        return Batches(
            cases,
            config.shape,
            config.batch_size,
            soft_targets=soft_targets,
            augmentation=config.augmentation,
            labelled_share=config.labelled_share,
            num_batches=min(STEPS_AN_EPOCH, self.training(arm).steps),
            seed=seed,
        )

    def run(self, arm: str, seed: int, soft_targets: SoftTargets | None = None) -> Run:
        """The arm's run folder."""
        settings = asdict(self.config)
        training = asdict(self.training(arm))
        for other in ARMS:
            del settings[other]
        if soft_targets is None:
            for name in ("temperature", "alpha", "labelled_share"):
                del settings[name]
        else:
            settings["soft_targets"] = soft_targets.digest()
        data = [digest(c.image, c.mask if c.mask is not None else None) for c in self.cases]
        settings |= {"training": training, "data_digest": digest(data)}
        return Run(self.root, arm, seed, settings, self.split(seed))

    def soft_targets(self, seed: int) -> SoftTargets:
        """The trained teacher's labels of all training cases, written where missing."""
        teacher = train(self, "teacher", seed)
        folder = teacher.folder.with_name(f"soft-targets-{teacher.folder.name}")
        cases = self.take("labelled", seed) + self.take("unlabelled", seed)
        return SoftTargets.write(teacher.load(), cases, folder, split=self.split(seed))

    def finish(self, run: Run, model: keras.Model) -> Run:
        """Evaluate on the test cases and write the run's result."""
        split = self.split(run.seed)
        scores = evaluate(model, self.take("test", run.seed), split=split)
        validation = evaluate(
            model, self.take("validation", run.seed), split=split, part="validation"
        )
        run.finish(model, scores, validation_dice=mean_dice(validation))
        return run


def train(experiment: Experiment, arm: str, seed: int, verbose: int | str = 0) -> Run:
    """Train, evaluate and record one arm and seed; a finished run is only opened.

    Args:
        experiment: The main job.
        arm: "teacher", "student" or "baseline"; a student's teacher is trained first.
        seed: Of the weights, the batches and the labelled cases.
        verbose: As in Keras' `fit`.
    """
    soft_targets = experiment.soft_targets(seed) if arm == "student" else None
    run = experiment.run(arm, seed, soft_targets)
    if run.finished:
        return run
    model = network = experiment.network(arm, seed)
    if soft_targets is not None:
        config = experiment.config
        model = Distiller(network, temperature=config.temperature, alpha=config.alpha)
    experiment.compile(model, arm)
    batches = experiment.batches(arm, seed, soft_targets)
    run.fit(model, batches, experiment.epochs(arm), verbose=verbose)
    return experiment.finish(run, model)


def from_arguments(arguments: Sequence[str] | None = None) -> Experiment:
    """The experiment that the command line asks for (in a notebook: the environment).

    `--tier smoke|quick|full`, `--data hippocampus`, `--data-dir FOLDER`, `--runs FOLDER`; each
    defaults to KDCORE_TIER, KDCORE_DATASET, KDCORE_DATA, KDCORE_RUNS.
    """
    parser = argparse.ArgumentParser(description="kdcore's main job")
    get = os.environ.get
    parser.add_argument("--tier", choices=list(TIERS), default=get("KDCORE_TIER", "quick"))
    parser.add_argument(
        "--data", choices=["hippocampus"], default=get("KDCORE_DATASET", "hippocampus")
    )
    parser.add_argument("--data-dir", default=None, help="folder that holds the data")
    parser.add_argument("--runs", default=get("KDCORE_RUNS", "runs"), help="folder of the runs")
    if arguments is None:
        arguments = [] if "ipykernel" in sys.modules else sys.argv[1:]
    options = parser.parse_args(arguments)
    return Experiment(TIERS[options.tier], options.tier, options.runs, options.data_dir)


def describe(config: Config) -> dict[str, Any]:
    """The settings as JSON values."""
    return asdict(config)
