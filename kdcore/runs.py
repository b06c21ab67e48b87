"""One folder for each arm and seed: skipped when finished, continued when interrupted.

<root>/<arm>-seed<seed>-<digest of the config>/
config.json  split.json      what was asked for
state.json  epoch-*.weights.h5    how far training is (weights and optimizer)
model.keras                  the trained network
result.json                  metrics, history, versions, hardware, time; written last
"""

import copy
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras

from kdcore.batches import Batches
from kdcore.files import digest, plain, read_json, replacing, write_json
from kdcore.splits import Split

_START: dict[str, Any] = {"epoch": 0, "history": {}, "seconds": 0.0, "weights": None}


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
        content: dict[str, Any] = read_json(self.folder / "result.json")
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
        """Save the network and the result; from now on the run counts as finished.

        Args:
            model: The network, or the `Distiller` whose student is to be saved.
            per_case: What `evaluate` returned.
            **extra: Whatever else belongs to the result.
        """
        self.split.require(per_case, ("test",), "A result")
        network = getattr(model, "student", model)
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
                "per_case": per_case,
                "history": state["history"],
                "training_seconds": state["seconds"],
                "model_digest": digest(*map(keras.ops.convert_to_numpy, network.weights)),
                **provenance(),
                **extra,
            },
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
            return keras.saving.load_model(path, compile=False)
        except Exception as error:
            raise RunError(f"{path} cannot be loaded: {error}. Delete {self.folder}.") from error

    def _state(self) -> dict[str, Any]:
        path = self.folder / "state.json"
        if path.exists():
            state = read_json(path)
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
        # Keras insists on the ending `.weights.h5`.
        temporary = self.folder / f".part-{name}"
        self.model.save_weights(temporary)
        os.replace(temporary, self.folder / name)
        history = self.state["history"]
        for key, value in (logs or {}).items():
            history.setdefault(key, []).append(float(value))
        old = self.state["weights"]
        self.state |= {
            "epoch": epoch + 1,
            "seconds": self.state["seconds"] + seconds,
            "weights": name,
        }
        write_json(self.folder / "state.json", self.state)
        if old is not None and old != name:
            (self.folder / old).unlink(missing_ok=True)


def provenance() -> dict[str, Any]:
    """Versions, hardware, backend and commit; no path, user or machine name."""
    return {
        "versions": _versions(),
        "hardware": _hardware(),
        "backend": keras.backend.backend(),
        "commit": _commit(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("kdcore", "keras", "tensorflow", "jax", "torch", "numpy", "scipy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _hardware() -> dict[str, Any]:
    name = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return {"processor": name, "cores": os.cpu_count(), "accelerators": _accelerators()}


def _accelerators() -> list[str]:
    if keras.backend.backend() == "torch":
        import torch

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return [d for d in keras.distribution.list_devices() if not d.startswith("cpu")]


def _commit() -> str | None:
    """Commit of the checkout kdcore runs from, with `+changes` if files differ from it."""
    folder = Path(__file__).resolve().parent
    if not (folder.parent / ".git").exists() or shutil.which("git") is None:
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "kdcore")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except subprocess.CalledProcessError:
        return None
