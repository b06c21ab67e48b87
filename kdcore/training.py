"""Training that is kept in a folder: it goes on where it stopped, and is not done twice.

    settings.json                    what decides the outcome; others are refused
    state.json, epoch-*.weights.h5   how far training is: weights and optimizer
    history.csv                      the losses after each epoch
    network.keras, finished.json     the trained network, and what is to be known of it

Each file is either whole or not there, and each says by a digest whether it was changed.
"""

import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from kdcore._files import (
    digest,
    file_digest,
    lock,
    plain,
    read_sealed,
    replacing,
    write_json,
)
from kdcore._provenance import (
    accelerators,
    provenance,
    settings_digest,
    teacher_digest,
    weights_digest,
)
from kdcore.data import Split
from kdcore.distiller import Distiller
from kdcore.heads import check_head
from kdcore.losses import DiceBinaryCrossEntropy, DiceCrossEntropy, check_labels
from kdcore.unet import leave_out_own_losses

MOST_STEPS_AT_ONCE = 25
_START_COUNTS = (
    "A network's weights at the start count: to go on, call keras.utils.set_random_seed(n) before "
    "building it. "
)
_START: dict[str, Any] = {"epoch": 0, "weights": None, "history": {}, "seconds": 0.0}


class TrainingError(ValueError):
    """A training's folder is damaged, or belongs to other settings."""


def fit(
    model: keras.Model,
    batches: Any,
    epochs: int,
    folder: str | Path,
    *,
    split: Split | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **kwargs: Any,
) -> keras.Model:
    """`model.fit`, kept in a folder.

    After each epoch the weights and the optimizer are saved there. Called again after an
    interrupt, training goes on with the next epoch, and ends in the same weights as one that was
    not interrupted (bit for bit with TensorFlow on a CPU); called again after the end, the trained
    network is loaded and nothing is trained. A network that is built again starts alike only after
    `keras.utils.set_random_seed(n)`, so call that before building it.

    On a CPU a small network spends its time between the steps. There `fit` runs up to 25 steps at
    a time and leaves XLA off, unless `compile(steps_per_execution=..., jit_compile=...)` says
    otherwise: a third faster, with the same numbers. Callbacks then see every 25th batch.

    Args:
        model: A compiled network, or a compiled `Distiller`.
        batches: Its training batches; of other data sets than `Batches` the contents are not
            looked at.
        epochs: In all, those before an interrupt included.
        folder: Belongs to this training alone.
        split: If given, training on a validation or test case is refused.
        callbacks: Further ones.
        **kwargs: For `model.fit`. They are not compared with those of an earlier call, nor are
            `loss_weights` of `compile`, of which Keras says nothing.

    Returns:
        The trained network; of a `Distiller` the student. Its losses are in `history.csv`.

    Raises:
        TrainingError: If the folder holds a training with other settings (network, weights at
            the start, optimizer, loss, batches, epochs), or was damaged.
        LeakageError: If a case may not be trained on.

    Examples:
        >>> import keras, kdcore
        >>> cases = kdcore.simulate_cases(1, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> batches = kdcore.Batches(cases, shape=(32, 32), batch_size=4, num_batches=2)
        >>> keras.utils.set_random_seed(0)
        >>> model = kdcore.unet((32, 32, 4), num_classes=3, filters=2, depth=1)
        >>> model.compile(keras.optimizers.Adam(1e-2), loss=kdcore.DiceCrossEntropy())
        >>> model = kdcore.fit(model, batches, epochs=2, folder="runs/baseline", verbose=0)
        >>> print(open("runs/baseline/history.csv").readline().strip())
        epoch,loss
    """
    folder = Path(folder)
    if not getattr(model, "compiled", False):
        raise ValueError(
            f"{model.name} is not compiled. Call model.compile(optimizer, loss=...) before fit."
        )
    # Other losses may expect probabilities.
    if isinstance(model.loss, DiceCrossEntropy | DiceBinaryCrossEntropy):
        network = getattr(model, "student", model)
        check_head(network)
        if network.built:
            check_labels(np.array(getattr(batches, "labels", ())), network.output_shape[-1])
    if split is not None:
        split.require(batches.case_ids, ("labelled", "unlabelled"), "Training")
        split.require(batches.labelled_ids, ("labelled",), "Training with masks")
    wanted = plain(_settings(model, batches, epochs))
    with lock(folder):
        _refuse_other_settings(folder, wanted)
        if (folder / "finished.json").exists():
            return load(folder)
        write_json(folder / "settings.json", wanted, sealed=True)
        _train(model, batches, epochs, folder, callbacks, **kwargs)
        return keep(getattr(model, "student", model), folder)


def warmup_cosine(peak: float, steps: int) -> keras.optimizers.schedules.LearningRateSchedule:
    """A rate that rises to `peak` in the first tenth of the steps, then falls along a cosine.

    Args:
        peak: The highest learning rate.
        steps: Gradient steps of the whole training; the rise takes at most 100 of them, the
            fall ends at a hundredth of the peak.

    Returns:
        For an optimizer's `learning_rate`.

    Examples:
        >>> import keras, kdcore
        >>> rate = kdcore.warmup_cosine(peak=0.01, steps=1500)
        >>> print(*[round(float(rate(step)), 3) for step in (0, 50, 100, 800, 1500)])
        0.0 0.005 0.01 0.005 0.0
        >>> optimizer = keras.optimizers.Adam(rate)

    Reference: Loshchilov and Hutter 2017, section 3, https://arxiv.org/abs/1608.03983
    """
    warmup = min(100, max(1, steps // 10))
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warmup), alpha=0.01, warmup_target=peak, warmup_steps=warmup
    )


def keep(network: keras.Model, folder: str | Path) -> keras.Model:
    """Save a network as a finished training, and return it: one trained here, or an ensemble."""
    folder = Path(folder)
    leave_out_own_losses(network)
    with replacing(folder / "network.keras") as temporary:
        network.save(temporary)
    state = _state(folder)
    write_json(
        folder / "finished.json",
        {
            "params": network.count_params(),
            "history": state["history"],
            "training_seconds": state["seconds"],
            "model_digest": weights_digest(network),
            "settings_digest": settings_digest(folder / "network.keras"),
            **provenance(),
        },
        sealed=True,
    )
    for path in folder.glob("epoch-*.weights.h5"):
        path.unlink()
    return network


def load(folder: str | Path) -> keras.Model:
    """The trained network of a finished training (Keras' safe mode: no code is run)."""
    folder = Path(folder)
    known, path = finished(folder), folder / "network.keras"
    if not path.exists():
        raise TrainingError(f"{path} is missing. Delete {folder} to train again.")
    try:
        network = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its parts raise
        raise TrainingError(
            f"{path} cannot be loaded: {reason_not_loaded(error)} Delete {folder} to train again."
        ) from error
    found = {"model_digest": weights_digest(network), "settings_digest": settings_digest(path)}
    if any(known[key] != value for key, value in found.items()):
        raise TrainingError(
            f"{path} is not the network that was trained here: its digest is another. "
            f"Restore it, or delete {folder} to train again."
        )
    return network


def finished(folder: str | Path) -> dict[str, Any]:
    """What is known of a finished training.

    Returns:
        `params`, `history` (`{name: [after each epoch]}`), `training_seconds`, `model_digest`,
        `settings_digest`, and `versions`, `hardware`, `backend`, `commit`.

    Raises:
        TrainingError: If it is not finished, or the file was changed.
    """
    path = Path(folder) / "finished.json"
    if not path.exists():
        raise TrainingError(f"{folder} holds no finished training; it goes on when run.")
    known: dict[str, Any] = read_sealed(path, TrainingError)
    return known


def reason_not_loaded(error: Exception) -> str:
    """What Keras says of a file that it cannot load, without the settings of all its layers."""
    unknown = re.search(r"Could not locate (class|function) '(.+?)'", str(error))
    if unknown is None:
        reason = str(error).rsplit("Exception encountered: ", 1)[-1]
        return f"{reason[:500].rstrip('.')}."
    return (
        f"Keras does not know its {unknown[1]} {unknown[2]}. Import the module that defines it, "
        "with @keras.saving.register_keras_serializable(), and load it in the same program."
    )


def _train(
    model: keras.Model,
    batches: Any,
    epochs: int,
    folder: Path,
    callbacks: Sequence[keras.callbacks.Callback],
    **kwargs: Any,
) -> None:
    for left in folder.glob(".part-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    state = _restore(model, folder)
    if state["epoch"] >= epochs:
        return
    if keras.backend.backend() == "tensorflow" and not accelerators():
        model.jit_compile = model.jit_compile is True
        if model.steps_per_execution == 1:
            model.steps_per_execution = _steps_at_once(len(batches))
    model.fit(
        batches,
        epochs=epochs,
        initial_epoch=state["epoch"],
        shuffle=False,  # Batches does it; Keras would reorder them unrepeatably
        # What is noted last is done: an epoch whose callbacks were cut short is done again.
        callbacks=[*callbacks, _SaveState(folder, state, batches)],
        **kwargs,
    )


def _steps_at_once(steps: int) -> int:
    """The most, up to 25, that an epoch is made of without a rest."""
    return max(n for n in range(1, MOST_STEPS_AT_ONCE + 1) if steps % n == 0)


class _SaveState(keras.callbacks.Callback):
    """Weights first, then the JSON that names them, then the old weights go.

    Keras' own `BackupAndRestore` overwrites the weights before it notes their epoch: killed in
    between, the next call would train one epoch twice and nobody would know.
    """

    def __init__(self, folder: Path, state: dict[str, Any], batches: Any) -> None:
        super().__init__()
        self.folder, self.state, self.batches = folder, state, batches
        self.start = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.batches.epoch = epoch
        self.start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        seconds = time.monotonic() - self.start
        name = f"epoch-{epoch + 1:04d}.weights.h5"
        with replacing(self.folder / name) as temporary:
            # Of a full disk HDF5 dies without a word; this raises an error that names the file.
            temporary.write_bytes(bytes(_size_on_disk(self.model)))
            self.model.save_weights(temporary)
        for key, value in (logs or {}).items():
            self.state["history"].setdefault(key, []).append(float(value))
        old = self.state["weights"]
        self.state |= {
            "epoch": epoch + 1,
            "seconds": self.state["seconds"] + seconds,
            "weights": name,
            "digest": file_digest(self.folder / name),
        }
        write_json(self.folder / "state.json", self.state, sealed=True)
        _write_history(self.folder / "history.csv", self.state["history"])
        if old is not None and old != name:
            (self.folder / old).unlink(missing_ok=True)


def _write_history(path: Path, history: Mapping[str, Sequence[float]]) -> None:
    epochs = range(1, 1 + max(map(len, history.values()), default=0))
    with replacing(path) as temporary:
        pd.DataFrame(history, index=pd.Index(epochs, name="epoch")).to_csv(temporary)


def _size_on_disk(model: keras.Model) -> int:
    variables = (*model.variables, *model.optimizer.variables)
    return sum(4 * math.prod(variable.shape) + 2048 for variable in variables)


def _state(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    if not path.exists():
        return {**_START, "history": {}}
    state = read_sealed(path, TrainingError)
    if not isinstance(state, dict) or {*_START} - set(state):
        raise TrainingError(f"{path} is damaged. Delete {folder} to train again.")
    return state


def _restore(model: keras.Model, folder: Path) -> dict[str, Any]:
    state = _state(folder)
    if state["weights"] is None:
        return state
    path = folder / Path(state["weights"]).name
    if not path.exists():
        raise TrainingError(f"{path} is missing. Delete {folder} to train again.")
    if state.get("digest") != file_digest(path):
        raise TrainingError(f"{path} is damaged. Delete {folder} to train again.")
    try:
        model.optimizer.build(model.trainable_variables)
        model.load_weights(path)
    except Exception as error:  # Keras raises whatever its parts raise
        raise TrainingError(
            f"{path} does not fit this network: {error}. Delete {folder} to train anew."
        ) from error
    return state


def _settings(model: keras.Model, batches: Any, epochs: int) -> dict[str, Any]:
    """What decides the outcome, by names that a person can compare."""
    network = getattr(model, "student", model)
    settings = {
        "network": teacher_digest(network),
        "optimizer": _described(model.optimizer),
        "loss": _described(model.loss),
        "batches": batches.describe() if hasattr(batches, "describe") else len(batches),
        "epochs": epochs,
    }
    if isinstance(model, Distiller):
        settings["distillation"] = {
            "teachers": [teacher_digest(teacher) for teacher in model.teachers],
            "temperature": model.temperature,
            "alpha": model.alpha,
            "soft_loss": _described(model.soft_loss),
            "hints": None if model.hints is None else [model.hints.pairs, model.hints.weight],
        }
        if model.known_classes is not None:
            settings["distillation"]["known_classes"] = list(model.known_classes)
    return settings


def _described(part: Any) -> Any:
    """An optimizer, a loss or a function as JSON values, without what Keras numbers."""
    if part is None or isinstance(part, str):
        return part
    if hasattr(part, "get_config"):
        kept = {k: _described(value) for k, value in part.get_config().items() if k != "name"}
        return {"class": type(part).__name__, **kept}
    if callable(part):
        return f"{part.__module__}.{getattr(part, '__qualname__', type(part).__name__)}"
    if isinstance(part, list | tuple):
        return [_described(one) for one in part]
    if isinstance(part, dict):
        return {key: _described(value) for key, value in part.items()}
    return plain(part) if isinstance(plain(part), int | float) else digest(str(part))


def _refuse_other_settings(folder: Path, wanted: dict[str, Any]) -> None:
    path = folder / "settings.json"
    if not path.exists():
        return
    found = read_sealed(path, TrainingError)
    changed = _differences(found, wanted)
    if changed:
        seed = "" if found.get("network") == wanted["network"] else _START_COUNTS
        raise TrainingError(
            f"{folder} holds a training with other settings: {'; '.join(changed)}. {seed}"
            "Choose another folder, or delete this one to train anew."
        )


def _differences(found: Any, wanted: Any, name: str = "") -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        keys = sorted(set(found) | set(wanted))
        parts = [(found.get(k), wanted.get(k), f"{name}.{k}" if name else k) for k in keys]
        return [line for part in parts for line in _differences(*part)]
    return [] if found == wanted else [f"{name} was {_short(found)}, is {_short(wanted)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
