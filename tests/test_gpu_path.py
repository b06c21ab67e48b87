"""`--gpu` of the nox sessions, as far as a machine without one can show it."""

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import kdcore._provenance as provenance

ROOT = Path(__file__).parents[1]
SEE = ROOT / "docs/_tools/see_gpu.py"


class Session(SimpleNamespace):
    """Notes what a session would install and run."""

    def __init__(self, folder, *posargs):
        super().__init__(posargs=list(posargs), done=[])
        self.virtualenv = SimpleNamespace(location=str(folder))

    def install(self, *arguments):
        self.done.append(("install", next(a for a in arguments if a.startswith(".["))))

    def run(self, *command, env):
        self.done.append(command)


@pytest.fixture(scope="module")
def noxfile():
    return SimpleNamespace(**runpy.run_path(str(ROOT / "noxfile.py")))


def test_with_gpu_a_device_is_looked_for_and_all_of_it_is_trained(noxfile, tmp_path):
    session = Session(tmp_path, "--gpu", "--data", "hippocampus")
    noxfile.reproduce.func(session)
    install, see, *examples = session.done
    assert install == ("install", ".[gpu,figures]")
    assert see == ("python", "docs/_tools/see_gpu.py")
    assert len(examples) == 5
    assert all(e[2:] == ("--data", "hippocampus", "--tier", "full") for e in examples)


def test_without_it_nothing_changes(noxfile, tmp_path):
    session = Session(tmp_path, "--tier", "smoke")
    noxfile.reproduce.func(session)
    assert session.done[0] == ("install", ".[tensorflow,figures]")
    assert all(command[2:] == ("--tier", "smoke") for command in session.done[1:])


def test_a_study_of_several_workers_installs_ray(noxfile, tmp_path):
    session = Session(tmp_path, "--gpu", "--tier", "quick", "--workers", "2")
    noxfile.study.func(session)
    assert session.done[0] == ("install", ".[gpu,figures,ray]")
    assert session.done[2][2:] == ("kdcore.study", "--tier", "quick", "--workers", "2")


@pytest.mark.job
def test_without_a_device_it_stops_with_a_sentence():
    told = subprocess.run(
        [sys.executable, SEE], capture_output=True, text=True, env={"CUDA_VISIBLE_DEVICES": ""}
    )
    assert told.returncode == 1
    assert "sees no GPU here" in told.stderr and "nvidia-smi" in told.stderr


def test_a_device_is_named(monkeypatch, capsys):
    monkeypatch.setattr(provenance, "accelerators", lambda: ["NVIDIA H200"])
    runpy.run_path(str(SEE), run_name="__main__")
    assert "sees 1 GPU: NVIDIA H200." in capsys.readouterr().out
