"""Where results come from: versions, hardware and commit; digests of networks and teachers."""

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import types
import zipfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore._files import digest


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
    if keras.backend.backend() == "jax":
        import jax

        return [device.device_kind for device in jax.devices() if device.platform != "cpu"]
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


_VALUES = (int, float, complex, str, bytes, bool, type(None))


def teacher_digest(teacher: Any) -> str:
    """SHA-256 of a teacher, the same in every process.

    A network's digest covers the settings and weights of its layers and no names. A
    callable's is that of its attribute `digest`, if it has one; else of its code, its
    defaults and the numbers, strings, arrays and networks it closes over or finds in its
    module. What is beyond these (files, other objects) is not seen: give such a teacher a
    `digest`, a string that changes whenever its answers do.

    Raises:
        ValueError: If it is no teacher.
    """
    if isinstance(teacher, list | tuple):
        return digest([teacher_digest(one) for one in teacher])
    if isinstance(teacher, keras.Model):
        network: Any = getattr(teacher, "student", teacher)
        settings = [
            [type(layer).__name__, _nameless(layer.get_config())] for layer in network.layers
        ]
        return digest(settings, *map(np.asarray, network.get_weights()))
    if not callable(teacher):
        raise ValueError(
            "A teacher is a keras.Model or a callable case -> probabilities. "
            f"Received: {type(teacher)}."
        )
    return _of_callable(teacher, ())


def _of_callable(function: Callable[..., Any], seen: tuple[int, ...]) -> str:
    own = getattr(function, "digest", None)
    if own is not None:
        return digest(str(own() if callable(own) else own))
    if id(function) in seen:
        return "again"
    seen = (*seen, id(function))
    if isinstance(function, functools.partial):
        parts = [function.func, *function.args, *sorted(function.keywords.items())]
        return digest([_of_value(part, seen) for part in parts])
    if isinstance(function, types.MethodType):
        return digest(_of_callable(function.__func__, seen), _of_value(function.__self__, seen))
    if isinstance(function, types.BuiltinFunctionType | np.ufunc | type):
        return digest(getattr(function, "__qualname__", function.__class__.__qualname__))
    if isinstance(function, types.FunctionType):
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        found = [function.__globals__.get(name) for name in _names(function.__code__)]
        globals_used = [v for v in found if not isinstance(v, types.ModuleType | type)]
        values = [*cells, *globals_used, *(function.__defaults__ or ())]
        return digest(_of_code(function.__code__), [_of_value(v, seen) for v in values])
    state = [[key, _of_value(value, seen)] for key, value in sorted(vars(function).items())]
    return digest(type(function).__qualname__, state)


def _of_value(value: Any, seen: tuple[int, ...]) -> str:
    if isinstance(value, keras.Model):
        return teacher_digest(value)
    if isinstance(value, np.ndarray | np.generic):
        return digest(np.asarray(value))
    if isinstance(value, _VALUES):
        return digest(repr(value))
    if isinstance(value, tuple):
        return digest([_of_value(item, seen) for item in value])
    if isinstance(value, frozenset):
        return digest(sorted(_of_value(item, seen) for item in value))
    if isinstance(value, list | dict):  # may be a log or a cache: networks and arrays count
        items = value.values() if isinstance(value, dict) else value
        return digest(
            [_of_value(v, seen) for v in items if isinstance(v, keras.Model | np.ndarray)]
        )
    if callable(value):
        return _of_callable(value, seen)
    return type(value).__qualname__


def _of_code(code: types.CodeType) -> str:
    constants = [
        _of_code(constant) if isinstance(constant, types.CodeType) else _of_value(constant, ())
        for constant in code.co_consts
    ]
    return digest(code.co_code.hex(), constants, code.co_names)


def _names(code: types.CodeType) -> list[str]:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return sorted({*code.co_names, *(name for c in inner for name in _names(c))})


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
    """Without the numbers that Keras puts behind names: they count what was built before."""
    if isinstance(value, dict):
        return {key: _unnumbered(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unnumbered(item) for item in value]
    return re.sub(r"_\d+$", "", value) if isinstance(value, str) else value
