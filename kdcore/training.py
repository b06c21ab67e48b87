"""One folder for each arm and seed: skipped when finished, continued when interrupted.

<root>/<arm>-seed<seed>-<digest of the config>/
config.json  split.json      what was asked for
state.json  epoch-*.weights.h5    how far training is (weights and optimizer)
model.keras                  the trained network
result.json                  metrics, history, versions, hardware, time; written last
"""

import copy
import json
import math
import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from kdcore._files import (
    digest,
    file_digest,
    lock,
    plain,
    read_json,
    read_sealed,
    replacing,
    write_json,
)
from kdcore._provenance import provenance, weights_digest
from kdcore.batches import Batches
from kdcore.data.splits import Split

_START: dict[str, Any] = {"epoch": 0, "history": {}, "seconds": 0.0, "weights": None}
_RESULT = {
    "arm", "seed", "per_case", "history", "params", "training_seconds", "model_digest",
    "settings_digest",
}  # fmt: skip


class RunError(ValueError):
    """A run folder is damaged or belongs to another configuration."""


class Run:
    """The run of one arm and seed with one configuration.

    Another configuration is another folder, so a changed setting never meets old results.

    Args:
        root: Folder of the runs.
        arm: "teacher", "student", "baseline", ...
        seed: The run's seed.
        config: Everything that decides the result, as JSON values.
        split: Which cases are used for what.

    Attributes:
        folder, lock: Where it is kept; held while it is written there.
    """

    def __init__(
        self, root: str | Path, arm: str, seed: int, config: Mapping[str, Any], split: Split
    ) -> None:
        if Path(arm).name != arm:
            raise RunError(f"arm {arm!r} must do as a file name.")
        self.arm, self.seed, self.split = arm, seed, split
        self.config = plain({**config, "arm": arm, "seed": seed, "split": vars(split)})
        self.folder = Path(root) / f"{arm}-seed{seed}-{digest(self.config)[:8]}"
        self.lock = lock(self.folder)
        recorded = self.folder / "config.json"
        if recorded.exists():
            self._check_config(read_json(recorded))
        else:
            split.save(self.folder / "split.json")
            write_json(recorded, self.config)

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

    def fit(self, model: keras.Model, batches: Batches, epochs: int, **kwargs: Any) -> None:
        """`model.fit` that goes on where an earlier call stopped.

        After each epoch weights and optimizer are saved. Batches depend on seed and epoch
        alone, so an interrupted run ends with the numbers of one that was not.

        Args:
            model: Compiled and built; a network or a `Distiller`.
            batches: Training batches.
            epochs: In all, earlier ones included.
            **kwargs: For `model.fit`.

        Raises:
            LeakageError: If a validation or test case is among the batches' cases.
        """
        if self.finished:
            return
        self.split.require(batches.case_ids, ("labelled", "unlabelled"), "Training")
        self.split.require(batches.labelled_ids, ("labelled",), "Training with masks")
        with self.lock:
            if not self.finished:
                self._fit(model, batches, epochs, **kwargs)

    def _fit(self, model: keras.Model, batches: Batches, epochs: int, **kwargs: Any) -> None:
        for left in self.folder.glob(".part-*"):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        state = self._restore(model)
        if state["epoch"] >= epochs:
            return
        callbacks = [_SaveState(self.folder, state, batches), *kwargs.pop("callbacks", [])]
        model.fit(
            batches,
            epochs=epochs,
            initial_epoch=state["epoch"],
            callbacks=callbacks,
            shuffle=False,  # Batches does it; Keras would reorder them unrepeatably
            **kwargs,
        )

    def finish(self, model: keras.Model, per_case: Mapping[str, Any], **extra: Any) -> None:
        """Save the network and the result; from now on the run is finished.

        Args:
            model: The network, or the `Distiller` whose student is to be saved.
            per_case: What `evaluate` returned.
            **extra: Whatever else belongs to the result.
        """
        self.split.require(per_case, ("test",), "A result")
        network = getattr(model, "student", model)
        with self.lock:
            if not self.finished:  # by another process
                self._write(network, {"per_case": per_case, **extra})

    def _write(self, network: keras.Model, content: Mapping[str, Any]) -> None:
        with replacing(self.folder / "model.keras") as temporary:
            network.save(temporary)
        state = self._state()
        write_json(
            self.folder / "result.json",
            {
                "arm": self.arm,
                "seed": self.seed,
                "config": self.config,
                "params": network.count_params(),
                "history": state["history"],
                "training_seconds": state["seconds"],
                "model_digest": weights_digest(network),
                "settings_digest": settings_digest(self.folder / "model.keras"),
                **provenance(),
                **content,
            },
            sealed=True,
        )
        for path in self.folder.glob("*.weights.h5"):
            path.unlink()

    def load(self) -> keras.Model:
        """The trained network (Keras' safe mode: no code is run)."""
        path = self.folder / "model.keras"
        if not self.finished:
            raise RunError(f"{self.folder} holds no trained network yet.")
        if not path.exists():
            raise RunError(f"{path} is missing. Delete {self.folder} to train again.")
        try:
            network = keras.saving.load_model(path, compile=False, safe_mode=True)
        except Exception as error:
            raise RunError(f"{path} cannot be loaded: {error}. Delete {self.folder}.") from error
        found = {"model_digest": weights_digest(network), "settings_digest": settings_digest(path)}
        result = self.result
        if any(result[key] != value for key, value in found.items()):
            raise RunError(
                f"{path} is not the network that was trained here: its digest is another. "
                f"Restore it, or delete {self.folder} to train again."
            )
        return network

    def _state(self) -> dict[str, Any]:
        path = self.folder / "state.json"
        if path.exists():
            state = read_sealed(path, RunError)
            if not isinstance(state, dict) or {*_START} - set(state):
                raise RunError(f"{path} is damaged. Delete {self.folder} to train again.")
            return state
        return copy.deepcopy(_START)

    def _restore(self, model: keras.Model) -> dict[str, Any]:
        state = self._state()
        if state["weights"] is not None:
            path = self.folder / Path(state["weights"]).name
            if not path.exists():
                raise RunError(f"{path} is missing. Delete {self.folder} to train again.")
            if state.get("digest") != file_digest(path):
                raise RunError(f"{path} is damaged. Delete {self.folder} to train again.")
            try:
                model.optimizer.build(model.trainable_variables)
                model.load_weights(path)
            except Exception as error:
                raise RunError(
                    f"{path} does not fit this network: {error}. It may be of another "
                    f"architecture; delete {self.folder} to train anew."
                ) from error
        return state

    def _check_config(self, found: Any) -> None:
        found = found if isinstance(found, dict) else {}
        keys = sorted(set(found) | set(self.config))
        changed = [key for key in keys if found.get(key) != self.config.get(key)]
        if changed:
            raise RunError(
                f"{self.folder} belongs to another configuration: {', '.join(changed)} differ. "
                "Move or delete the folder."
            )


class _SaveState(keras.callbacks.Callback):
    """Weights first, then the JSON that names them, then the old weights go."""

    def __init__(self, folder: Path, state: dict[str, Any], batches: Batches) -> None:
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
        history = self.state["history"]
        for key, value in (logs or {}).items():
            history.setdefault(key, []).append(float(value))
        old = self.state["weights"]
        self.state |= {
            "epoch": epoch + 1,
            "seconds": self.state["seconds"] + seconds,
            "weights": name,
            "digest": file_digest(self.folder / name),
        }
        write_json(self.folder / "state.json", self.state, sealed=True)
        if old is not None and old != name:
            (self.folder / old).unlink(missing_ok=True)


def _size_on_disk(model: keras.Model) -> int:
    variables = (*model.variables, *model.optimizer.variables)
    return sum(4 * math.prod(variable.shape) + 2048 for variable in variables)


def settings_digest(path: Path) -> str:
    """Of what a .keras file says of its layers: the weights alone do not make the network."""
    with zipfile.ZipFile(path) as file:
        settings = json.loads(file.read("config.json"))
    settings.pop("compile_config", None)  # is of the training
    return digest(_unnumbered(settings))


def _unnumbered(value: Any) -> Any:
    """Without the numbers that Keras puts behind names: they count what was built before."""
    if isinstance(value, dict):
        return {key: _unnumbered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unnumbered(item) for item in value]
    return re.sub(r"_\d+$", "", value) if isinstance(value, str) else value
