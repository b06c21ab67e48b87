"""The main job as settings and functions: teacher -> soft targets -> student, baseline.

The examples walk through it step by step; `train` is the same in one call, for studies
over many seeds.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path

import keras

from kdcore.batches import Batches
from kdcore.cases import Case
from kdcore.config import ARMS, NUM_CLASSES, QUICK, STEPS_AN_EPOCH, TIERS, Config, Training
from kdcore.datasets import hippocampus_folder
from kdcore.distiller import Distiller
from kdcore.files import digest
from kdcore.hard_losses import DiceCrossEntropy
from kdcore.metrics import evaluate, evaluate_with_calibration, mean_dice
from kdcore.reading import read_msd
from kdcore.runs import Run
from kdcore.soft_targets import SoftTargets
from kdcore.splits import Split, split_cases
from kdcore.unet import unet


class Experiment:
    """Data, split and run folders of one configuration.

    Args:
        config: The settings.
        tier: Their name, for the folder.
        root: Folder of all runs.
        data_dir: Folder of the data; see `hippocampus_folder`.
        draw: Which training cases are the labelled ones; validation and test stay.
    """

    def __init__(
        self,
        config: Config = QUICK,
        tier: str = "quick",
        root: str | Path = "runs",
        data_dir: str | Path | None = None,
        draw: int = 0,
    ) -> None:
        self.config, self.tier, self.data_dir, self.draw = config, tier, data_dir, draw
        self.root = Path(root) / f"{config.data}-{tier}"

    @cached_property
    def cases(self) -> list[Case]:
        """All cases of the data set, sorted by id."""
        cases = read_msd(hippocampus_folder(self.data_dir))
        return cases[: self.config.num_cases]

    @cached_property
    def split(self) -> Split:
        """Drawn by case, with a fixed seed."""
        config = self.config
        split = split_cases(
            [case for case in self.cases if case.mask is not None],
            config.num_labelled,
            config.num_validation,
            config.num_test,
        )
        return split.redraw_labelled(self.draw) if self.draw else split

    def take(self, part: str) -> list[Case]:
        """The cases of one part of the split."""
        return self.split.take(self.cases, part)

    def network(self, arm: str, seed: int) -> keras.Model:
        """The arm's U-Net; student and baseline of one seed start from the same weights."""
        keras.utils.set_random_seed(seed)
        training = self.training(arm)
        return unet(self.input_shape(arm), NUM_CLASSES, training.filters, self.config.depth, arm)

    def input_shape(self, arm: str) -> tuple[int | None, ...]:
        """Slices are all of one size; a 3-D network takes volumes of any size."""
        shape = self.training(arm).shape
        return (*(shape if len(shape) == 2 else [None] * 3), 1)

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
        training = self.training(arm)
        cases = self.take("labelled")
        if soft_targets is not None:
            cases = cases + self.take("unlabelled")
        return Batches(
            cases,
            training.shape,
            training.batch_size,
            soft_targets=soft_targets,
            augmentation=self.config.augmentation,
            labelled_share=self.config.labelled_share,
            num_batches=min(STEPS_AN_EPOCH, training.steps),
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
        return Run(self.root, arm, seed, settings, self.split)

    def soft_targets(self) -> SoftTargets:
        """The teacher's labels of all training cases; trained and written where missing."""
        teacher = train(self, "teacher", seed=0)
        folder = teacher.folder.with_name(f"soft-targets-{teacher.folder.name}")
        cases = self.take("labelled") + self.take("unlabelled")
        return SoftTargets.write(teacher.load(), cases, folder, split=self.split)

    def finish(self, run: Run, model: keras.Model) -> Run:
        """Evaluate on the test cases and write the run's result."""
        scores, beliefs = evaluate_with_calibration(model, self.take("test"), split=self.split)
        validation = evaluate(model, self.take("validation"), split=self.split, part="validation")
        run.finish(model, scores, calibration=beliefs, validation_dice=mean_dice(validation))
        return run


def train(experiment: Experiment, arm: str, seed: int, verbose: int | str = 0) -> Run:
    """Train, evaluate and record one arm and seed; a finished run is only opened.

    Args:
        experiment: The main job.
        arm: "teacher", "student" or "baseline"; a student's teacher is trained first.
        seed: Of the weights and the batches.
        verbose: As in Keras' `fit`.
    """
    soft_targets = experiment.soft_targets() if arm == "student" else None
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
