"""Teacher -> soft targets -> student, baseline: the examples in one call, for many seeds.

A run is one arm of one seed. Its folder, named by all that decides it, holds the training
(see `kdcore.training`) and `result.json`, which is written last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import keras

from kdcore import training as trainings
from kdcore._files import digest, lock, plain, read_json, read_sealed, write_json
from kdcore.batches import Batches
from kdcore.data.cases import Case, forget
from kdcore.data.grid import resize
from kdcore.data.splits import Split, split_cases
from kdcore.distiller import Distiller
from kdcore.ensemble import ensemble, fit_temperature
from kdcore.evaluation.metrics import (
    absent_labels,
    agreement,
    evaluate,
    evaluate_with_calibration,
    mean_dice,
)
from kdcore.evaluation.scores import false_finds, false_volume, table_of
from kdcore.losses import (
    DiceCrossEntropy,
    channel_wise_loss,
    kd_loss,
    pseudo_label_loss,
    regional_kd_loss,
)
from kdcore.soft_targets import SoftTargets
from kdcore.study.settings import STEPS_AN_EPOCH, TASKS, Config, Training
from kdcore.unet import unet

SOFT_LOSSES = {
    "regional": regional_kd_loss,
    "kl": kd_loss,
    "channel-wise": channel_wise_loss,
    "pseudo-labels": pseudo_label_loss,
}


class Experiment:
    """Data, split and run folders of one configuration and one seed.

    Args:
        config: The settings.
        name: Of the experiment, for its folder.
        root: Folder of all runs.
        data_dir: Folder of the data; None for those that need none or are found.
        seed: Of weights and batches, and of the draw of the labelled cases among the
            training cases; validation and test cases are the same for every seed.
        fold: Of a cross-validation; each has other test cases.
    """

    def __init__(
        self,
        config: Config,
        name: str = "experiment",
        root: str | Path = "runs",
        data_dir: str | Path | None = None,
        seed: int = 0,
        fold: int = 0,
    ) -> None:
        self.config, self.name, self.data_dir = config, name, data_dir
        self.seed, self.fold = seed, fold
        self.root = Path(root) / name
        self.task = TASKS[config.task]
        self._resized: dict[str, Case] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the data: another process reads its own."""
        where = (self.name, self.root.parent, self.data_dir)
        return Experiment, (self.config, *where, self.seed, self.fold)

    @cached_property
    def cases(self) -> list[Case]:
        """All cases of the task, sorted by id."""
        return self.task.read(self.data_dir, self.config.num_cases)

    @cached_property
    def split(self) -> Split:
        """The task's own, or drawn by case; then only the labelled cases depend on the seed."""
        config, cases = self.config, [case for case in self.cases if case.mask is not None]
        if self.task.split is not None and config.num_cases is None:
            return self.task.split(cases, config.num_labelled)
        return split_cases(
            cases,
            config.num_labelled,
            config.num_validation,
            config.num_test,
            groups=self.task.groups,
            stratify=self.task.stratify,
            fold=self.fold,
            labelled_seed=self.seed,
        )

    def _seen(self, case: Case) -> Case:
        """A case as the networks see it; resized once for all seeds, when it is needed."""
        if self.task.slice_shape is None:
            return case
        if case.case_id not in self._resized:
            self._resized[case.case_id] = resize(case, self.task.slice_shape)
        return self._resized[case.case_id]

    def with_seed(
        self, seed: int, num_labelled: int | None = None, fold: int | None = None
    ) -> "Experiment":
        """The same experiment with another seed, perhaps another number of labels or fold."""
        config = replace(self.config, num_labelled=num_labelled or self.config.num_labelled)
        fold = self.fold if fold is None else fold
        other = Experiment(config, self.name, self.root.parent, self.data_dir, seed, fold)
        other.share_data(self)
        return other

    def share_data(self, other: "Experiment") -> None:
        """Take another's cases, so that they are read, digested and resized once for all seeds."""
        self.cases, self.data_digest = other.cases, other.data_digest
        self._resized = other._resized

    def take(self, part: str, arm: str | None = None) -> list[Case]:
        """The cases of one part of the split as `arm` sees them: resized, with its sequences."""
        wanted = set(getattr(self.split, part))
        seen = [self._seen(case) for case in self.cases if case.case_id in wanted]
        return self._select(self.split.take(seen, part), arm)

    def training(self, arm: str) -> Training:
        """The arm's settings."""
        if arm not in self.config.arms:
            raise ValueError(f"arm must be one of {list(self.config.arms)}. Received: {arm!r}.")
        return self.config.arms[arm]

    def network(self, arm: str) -> keras.Model:
        """The arm's U-Net; networks of one seed and shape start from the same weights."""
        keras.utils.set_random_seed(self._luck(arm))
        filters, depth = self.training(arm).filters, self.config.depth
        return unet(self.input_shape(arm), self.task.num_classes, filters, depth, arm)

    def input_shape(self, arm: str) -> tuple[int | None, ...]:
        """Slices are all of one size; a 3-D network takes volumes of any size."""
        training = self.training(arm)
        sequences = training.sequences or self.cases[0].sequences
        space = training.shape if len(training.shape) == 2 else (None, None, None)
        return (*space, len(sequences))

    def compile(self, model: keras.Model, arm: str) -> keras.Model:
        """Compile with the arm's optimizer and the hard loss, and return the model."""
        training = self.training(arm)
        model.compile(
            keras.optimizers.Adam(trainings.warmup_cosine(training.learning_rate, training.steps)),
            loss=DiceCrossEntropy(label_smoothing=training.label_smoothing),
        )
        return model

    def epochs(self, arm: str) -> int:
        """Epochs of `STEPS_AN_EPOCH` steps."""
        return max(1, self.training(arm).steps // STEPS_AN_EPOCH)

    def batches(self, arm: str, soft_targets: SoftTargets | None = None) -> Batches:
        """Labelled slices, and the unlabelled ones where a teacher speaks for them."""
        training = self.training(arm)
        distillation = training.distillation
        return Batches(
            self._training_cases(arm),
            training.shape,
            training.batch_size,
            soft_targets=soft_targets,
            augmentation=self.config.augmentation,
            labelled_share=distillation.labelled_share if distillation else None,
            foreground_share=training.foreground_share,
            num_batches=min(STEPS_AN_EPOCH, training.steps),
            seed=self._luck(arm),
        )

    def run(
        self, arm: str, soft_targets: SoftTargets | None = None, networks: Sequence["Run"] = ()
    ) -> "Run":
        """The arm's run folder; another teacher or another member is another folder."""
        settings = self._settings(arm)
        if soft_targets is not None:
            settings["soft_targets"] = soft_targets.digest()
        if networks:
            settings["networks"] = [run.result["model_digest"] for run in networks]
        return Run(self.root, arm, self.seed, settings, self.split)

    def key(self, arm: str) -> str:
        """A digest of all that decides the arm's result, known before anything is trained."""
        needed = [self.key(name) for name in self.training(arm).needs]
        return digest(self._settings(arm), arm, self.seed, vars(self.split), needed)

    def _settings(self, arm: str) -> dict[str, Any]:
        settings = asdict(self.config)
        del settings["arms"], settings["pairs"]
        return settings | {
            "training": asdict(self.training(arm)),
            "data_digest": self.data_digest,
        }

    def _luck(self, arm: str) -> int:
        return self.seed + 1000 * self.training(arm).member

    @cached_property
    def data_digest(self) -> str:
        """Of all images and masks."""
        digests = []
        for case in self.cases:
            digests.append(digest(case.image, case.mask))
            forget(case.image, case.mask)
        return digest(digests)

    def soft_targets(self, arm: str = "student") -> SoftTargets | None:
        """What the arm's teacher says of its training cases; trained and written if missing.

        None for an arm without a teacher.
        """
        distillation = self.training(arm).distillation
        if distillation is None:
            return None
        teacher = train(self, distillation.teacher)
        folder = teacher.folder.with_name(f"soft-targets-{teacher.folder.name}")
        cases = self.take("labelled", distillation.teacher)
        cases += self.take("unlabelled", distillation.teacher)
        with lock(folder):
            return SoftTargets.write(teacher.load(), cases, folder, split=self.split)

    def finish(self, run: "Run", network: keras.Model) -> "Run":
        """Evaluate on the test cases and write the run's result."""
        test, validation = (
            self._select(self.split.take(self.cases, part), run.arm)
            for part in ("test", "validation")
        )
        how: dict[str, Any] = {
            "regions": self.task.regions,
            "slice_shape": self.task.slice_shape,
            "split": self.split,
        }
        scores, beliefs = evaluate_with_calibration(network, test, **how)
        chosen_on = evaluate(network, validation, part="validation", **how)
        extra: dict[str, Any] = {}
        distillation = self.training(run.arm).distillation
        if distillation is not None:
            teacher = train(self, distillation.teacher)
            seen, also_seen = (self.take("test", arm) for arm in (distillation.teacher, run.arm))
            extra["agreement"] = agreement(teacher.load(), seen, network, also_seen)
            extra["teacher_digest"] = teacher.result["model_digest"]
        members = {name: train(self, name) for name in self.training(run.arm).members}
        if members:
            digests = {name: one.result["model_digest"] for name, one in members.items()}
            extra["member_digests"] = digests
        absent = absent_labels(validation, self.task.labels, self.task.regions)
        extra["validation_dice"] = mean_dice(chosen_on, absent)
        table = table_of(chosen_on, arm=run.arm)
        extra["validation_false_finds"] = {
            label: (
                *false_finds(table, absent, run.arm, label),
                false_volume(table, absent, run.arm, label),
            )
            for label, lack in absent.items()
            if lack
        }
        run.finish(scores, calibration=beliefs, **extra)
        return run

    def _select(self, cases: list[Case], arm: str | None) -> list[Case]:
        sequences = None if arm is None else self.training(arm).sequences
        return cases if sequences is None else [case.select(sequences) for case in cases]

    def _training_cases(self, arm: str) -> list[Case]:
        distillation = self.training(arm).distillation
        cases = self.take("labelled", arm)
        if distillation is not None and distillation.unlabelled:
            cases += self.take("unlabelled", arm)
        return cases


_RESULT = {"arm", "seed", "per_case", "history", "params", "training_seconds", "model_digest"}


class RunError(ValueError):
    """A run's folder is damaged or belongs to another configuration."""


class Run:
    """The run of one arm and seed with one configuration; another is another folder.

    Args:
        root: Folder of the runs.
        arm: "teacher", "student", "baseline", ...
        seed: The run's seed.
        config: Everything that decides the result, as JSON values.
        split: Which cases are used for what.

    Attributes:
        folder: Where it is kept.
    """

    def __init__(
        self, root: str | Path, arm: str, seed: int, config: Mapping[str, Any], split: Split
    ) -> None:
        if Path(arm).name != arm:
            raise RunError(f"arm {arm!r} must do as a file name.")
        self.arm, self.seed, self.split = arm, seed, split
        self.config = plain({**config, "arm": arm, "seed": seed, "split": vars(split)})
        self.folder = Path(root) / f"{arm}-seed{seed}-{digest(self.config)[:8]}"
        recorded = self.folder / "config.json"
        if not recorded.exists():
            write_json(recorded, self.config)
        elif (found := read_json(recorded)) != self.config:
            found = found if isinstance(found, dict) else {}
            keys = sorted(set(found) | set(self.config))
            changed = [key for key in keys if found.get(key) != self.config.get(key)]
            raise RunError(
                f"{self.folder} belongs to another configuration: {', '.join(changed)} differ. "
                "Move or delete the folder."
            )

    @property
    def finished(self) -> bool:
        """Whether `finish` has been called; such a run is not repeated."""
        return (self.folder / "result.json").exists()

    @property
    def result(self) -> dict[str, Any]:
        """What `finish` wrote."""
        if not self.finished:
            raise RunError(f"{self.folder} is not finished; its training goes on when run.")
        content: dict[str, Any] = read_sealed(self.folder / "result.json", RunError)
        if not isinstance(content, dict) or _RESULT - set(content):
            raise RunError(
                f"{self.folder / 'result.json'} is damaged. Delete {self.folder} to train again."
            )
        return content

    def load(self) -> keras.Model:
        """The trained network."""
        return trainings.load(self.folder)

    def finish(self, per_case: Mapping[str, Any], **extra: Any) -> None:
        """Write the result of a finished training; from now on the run is finished.

        Args:
            per_case: What `evaluate` returned.
            **extra: Whatever else belongs to the result.
        """
        self.split.require(per_case, ("test",), "A result")
        content = {"arm": self.arm, "seed": self.seed, "config": self.config, "per_case": per_case}
        content |= trainings.finished(self.folder) | extra
        write_json(self.folder / "result.json", content, sealed=True)


def train(experiment: Experiment, arm: str, verbose: int | str = 0) -> Run:
    """Train, evaluate and record one arm; a finished run is only opened.

    Args:
        experiment: Its settings and seed.
        arm: One of the configuration's; a student's teacher is trained first.
        verbose: As in Keras' `fit`.
    """
    training, distillation = experiment.training(arm), experiment.training(arm).distillation
    along = distillation is not None and (distillation.online or bool(distillation.hints))
    soft_targets = None if along else experiment.soft_targets(arm)
    networks = [train(experiment, name) for name in training.needs if along or training.members]
    run = experiment.run(arm, soft_targets, networks)
    if run.finished:
        return run
    if training.members:
        network = trainings.keep(_calibrated(experiment, arm, networks), run.folder)
    else:
        network = trainings.fit(
            _compiled(experiment, arm, networks),
            experiment.batches(arm, soft_targets),
            experiment.epochs(arm),
            run.folder,
            split=experiment.split,
            verbose=verbose,
        )
    return experiment.finish(run, network)


def _compiled(experiment: Experiment, arm: str, teachers: Sequence[Run]) -> keras.Model:
    """The arm's network as it is to be trained, in a `Distiller` if it has a teacher."""
    distillation, model = experiment.training(arm).distillation, experiment.network(arm)
    if distillation is not None:
        model = Distiller(
            model,
            teachers[0].load() if teachers else None,
            distillation.temperature,
            distillation.alpha,
            SOFT_LOSSES[distillation.soft_loss],
            hints=dict(distillation.hints),
        )
    return experiment.compile(model, arm)


def _calibrated(experiment: Experiment, arm: str, members: Sequence[Run]) -> keras.Model:
    """The members' ensemble, with the temperature that suits the validation cases."""
    networks = [run.load() for run in members]
    validation = experiment.take("validation", members[0].arm)
    temperature = fit_temperature(ensemble(networks), validation)
    return ensemble(networks, temperature, name=arm)
