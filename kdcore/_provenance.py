"""Where results come from: versions, hardware and commit; digests of networks and teachers."""

import json
import os
import platform
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore._files import digest, file_digest


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
    return {"processor": name, "cores": os.cpu_count(), "accelerators": accelerators()}


def accelerators() -> list[str]:
    """Names of the devices that the backend sees beside the CPU."""
    if keras.backend.backend() == "torch":
        import torch

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    return [details(d).get("device_name", d.name) for d in tf.config.list_physical_devices("GPU")]


def _commit() -> str | None:
    """Commit of the checkout kdcore runs from, with `+changes` if files differ from it."""
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "kdcore")
    commit = _git("rev-parse", "HEAD")
    return commit and commit + ("+changes" if changed else "")


def stands_on(tag: str) -> bool:
    """Whether the commit with this tag is in the history of the checkout kdcore runs from."""
    return _git("merge-base", "--is-ancestor", tag, "HEAD") is not None


def _git(*arguments: str) -> str | None:
    """What git says of the checkout kdcore runs from; None if it fails or there is no checkout."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


_VALUES = (int, float, complex, str, bytes, bool, type(None))


def teacher_digest(teacher: Any) -> str:
    """What a teacher is known by, the same in every process.

    SHA-256 of a network's settings and weights without names (a `keras.Model`), of a PyTorch
    module's state and the kinds of its layers, or of what a callable's attribute `digest` holds or
    returns: a text or number, or networks, arrays, paths of files, and lists and dicts of these.
    One with a `case_digest` alone is known by its name here, and by that in each case. Of any other
    callable nothing is looked into: code, closures and files cannot be followed surely. It is
    known by its name, which `unseen` tells.

    Raises:
        ValueError: If it is no teacher, or its `digest` holds what cannot be digested.
    """
    if isinstance(teacher, list | tuple):
        return digest([teacher_digest(one) for one in teacher])
    if _is_network(teacher):
        return _content(teacher)
    if not callable(teacher):
        raise ValueError(
            "A teacher is a keras.Model or a callable case -> probabilities. "
            f"Received: {type(teacher)}. A file's network is loaded first: "
            "keras.saving.load_model(path)."
        )
    own = getattr(teacher, "digest", None)
    if own is None:
        return f"{'a case at a time' if _tells_cases(teacher) else 'unseen'}: {_name(teacher)}"
    if callable(own) and not _is_network(own):
        own = own()
    return digest(str(own)) if isinstance(own, str | int | float) else _content(own)


def case_digest(teacher: Any, case_id: str) -> str | None:
    """What a teacher answers a case with, if it tells: of its `case_digest(case_id)`.

    So a teacher whose answers lie in files, one a case, stays the same when files are added.
    """
    if isinstance(teacher, list | tuple):
        told = [case_digest(one, case_id) for one in teacher]
        return digest(told) if any(told) else None
    return _content(teacher.case_digest(case_id)) if _tells_cases(teacher) else None


def _tells_cases(teacher: Any) -> bool:
    return not _is_network(teacher) and callable(getattr(teacher, "case_digest", None))


def unseen(teacher: Any) -> list[str]:
    """Names of the callables in it that tell no digest: whether they changed cannot be seen."""
    if isinstance(teacher, list | tuple):
        return [name for one in teacher for name in unseen(one)]
    told = getattr(teacher, "digest", None) is not None or _tells_cases(teacher)
    known = _is_network(teacher) or told
    return [] if known else [_name(teacher)]


def _is_network(value: Any) -> bool:
    return isinstance(value, keras.Model) or callable(getattr(value, "state_dict", None))


def _name(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _content(value: Any) -> str:
    if isinstance(value, keras.Model):
        network: Any = getattr(value, "student", value)
        return digest(_settings(network), *map(np.asarray, network.get_weights()))
    if _is_network(value):  # PyTorch's, which is not imported for this
        kinds = [type(module).__qualname__ for module in value.modules()]
        return digest(kinds, _content(value.state_dict()))
    if isinstance(value, Mapping):
        return digest(sorted([str(key), _content(item)] for key, item in value.items()))
    if isinstance(value, list | tuple):
        return digest([_content(item) for item in value])
    if isinstance(value, _VALUES):
        return digest(repr(value))
    if isinstance(value, Path):
        return file_digest(value)
    if isinstance(value, np.ndarray | np.generic) or hasattr(value, "__array__"):
        array = _array(value)
        if array.dtype.kind != "O":
            return digest(array)
    raise ValueError(
        "A digest is made of texts, numbers, arrays, paths of files and networks, and of lists and "
        "dicts of these. "
        f"Received: {type(value)}."
    )


def _settings(network: keras.Model) -> list[Any]:
    """Of every layer; where operations stand between the layers, also how all are wired."""
    settings: list[Any] = [
        [type(layer).__name__, _settings(layer)]
        if type(layer).__name__ == "Functional"  # has no settings of its own
        else [type(layer).__name__, _nameless(layer.get_config())]
        for layer in network.layers
    ]
    operations = getattr(network, "operations", network.layers)
    if len(operations) > len(network.layers):  # their constants stand in the graph alone
        nodes = network.get_config()["layers"]
        places = {node["name"]: place for place, node in enumerate(nodes)}
        wires = [[node["class_name"], node["inbound_nodes"]] for node in nodes]
        settings.append(_placed(wires, places))
    return settings


def _placed(value: Any, places: dict[str, int]) -> Any:
    """With places instead of names, which Keras numbers anew in every process."""
    if isinstance(value, dict):
        return {key: _placed(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_placed(item, places) for item in value]
    return places.get(value, value) if isinstance(value, str) else value


def _array(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a tensor of PyTorch, perhaps on a GPU
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # NumPy has none
            value = value.float()
    return np.asarray(value)


def _nameless(value: Any) -> Any:
    """A layer's settings without names, which Keras numbers anew in every process."""
    if isinstance(value, dict):
        return {key: _nameless(item) for key, item in value.items() if key != "name"}
    if isinstance(value, list | tuple):
        return [_nameless(item) for item in value]
    return value if isinstance(value, _VALUES) and not isinstance(value, bytes) else str(value)


def weights_digest(network: keras.Model) -> str:
    """Of all weights: what a record knows its network by, whatever file it lies in."""
    return digest(*map(keras.ops.convert_to_numpy, network.weights))


def settings_digest(path: Path) -> str:
    """Of what a .keras file says of its layers: the weights alone do not make the network."""
    with zipfile.ZipFile(path) as file:
        settings = json.loads(file.read("config.json"))
    settings.pop("compile_config", None)  # is of the training
    return digest(_unnumbered(settings))


def _unnumbered(value: Any) -> Any:
    """Without what depends on the process: numbers behind names count what was built before,
    and objects that layers share (a dtype policy) are marked with their address in memory.
    """
    if isinstance(value, dict):
        return {k: _unnumbered(item) for k, item in value.items() if k != "shared_object_id"}
    if isinstance(value, list):
        return [_unnumbered(item) for item in value]
    return re.sub(r"_\d+$", "", value) if isinstance(value, str) else value
