"""What a result was made with: versions, hardware, commit; nothing about who made it."""

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras


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
