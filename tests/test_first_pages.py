"""The quickstart and the page from scratch are programs: their code runs in the page's order."""

import os
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import make_case, write_nifti

import kdcore

ROOT = Path(__file__).parent.parent
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
SCRATCH = (ROOT / "docs" / "from-scratch.md").read_text("utf-8")
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
SMALLER = {
    "simulate_cases(120": "simulate_cases(8",
    "spacing_mm=3.0": "spacing_mm=6.0",
    "(64, 56": "(32, 24",
    "(128, 128)": "(24, 16)",
    "num_labelled=8": "num_labelled=2",
    "num_validation=12": "num_validation=1",
    "num_validation=4": "num_validation=1",
    "num_test=40": "num_test=2",
    "num_test=10": "num_test=2",
    "filters=32": "filters=2",
    "filters=8": "filters=2",
    '"num_batches": 100': '"num_batches": 1',
    '"foreground_share": 0.66': '"foreground_share": None',  # after one step there is none
    "fit(batches(labelled), epochs=10)": "fit(batches(labelled), epochs=1)",
    "fit(batches(labelled), epochs=15)": "fit(batches(labelled), epochs=1)",
    "fit(taught, epochs=15)": "fit(taught, epochs=1)",
    "adam(10)": "adam(1)",
    "adam(15)": "adam(1)",
    "adam(6)": "adam(1)",
    "adam(8)": "adam(1)",
    "epochs=6)": "epochs=1)",
    "epochs=8)": "epochs=1)",
}


def blocks(text: str, tab: str | None = None) -> list[str]:
    """The page's Python, or that of all its tabs of one name."""
    if tab is not None:
        tabs = re.findall(rf'^=== "{tab}"\n((?:\n|    .*\n)+)', text, re.MULTILINE)
        text = "\n".join(tabs)
    return [textwrap.dedent(code) for _, code in BLOCK.findall(text)]


def smaller(code: str) -> str:
    for long, short in SMALLER.items():
        code = code.replace(long, short)
    return code


def test_every_size_that_is_made_smaller_is_there():
    text = "\n".join(blocks(QUICKSTART))
    assert [long for long in SMALLER if long not in text] == []


@pytest.mark.job
def test_the_quickstart_runs(tmp_path, monkeypatch, capsys):
    """At a smaller size: fewer cases, filters and steps, otherwise as it stands."""
    monkeypatch.chdir(tmp_path)
    write_scans(tmp_path / "scans")
    built_in, comparison, own, new, baseline = map(smaller, blocks(QUICKSTART))
    scope: dict = {}
    exec(built_in, scope)
    assert len(scope["scores"]) == 2 and scope["student"].input_shape[-1] == 1
    exec(comparison, scope)
    assert "student − baseline" in capsys.readouterr().out
    for path in (tmp_path / "soft").iterdir():
        path.unlink()
    scope = {}
    exec(own, scope)
    exec(new, scope)
    exec(baseline, scope)
    assert "baseline: " in capsys.readouterr().out
    assert len(scope["unlabelled"]) == 2, "one is left, one has no mask"
    assert (tmp_path / "student.keras").exists() and (tmp_path / "cleo_mask.nii.gz").exists()


def write_scans(folder: Path) -> None:
    """Seven scans in the page's layout, the last one without a mask."""
    for i, name in enumerate(("anna", "ben", "cleo", "dan", "eve", "finn", "gil")):
        case = make_case(i, (24, 24, 16))
        image = case.image[..., 0].transpose(2, 1, 0)  # slices along the file's last axis
        write_nifti(folder / "images" / f"{name}.nii.gz", image)
        if name != "gil":
            mask = case.mask.transpose(2, 1, 0)
            write_nifti(folder / "labels" / f"{name}.nii.gz", mask)


@pytest.mark.skipif("tensorflow" not in sys.modules, reason="its step is TensorFlow's")
def test_the_step_in_keras_is_the_distillers(capsys):
    plain, ours = blocks(SCRATCH, "Keras")
    scope: dict = {}
    exec(plain, scope)
    before = [np.array(weight) for weight in scope["start"]]
    after = scope["student"].get_weights()
    assert any(not np.allclose(a, b) for a, b in zip(before, after, strict=True))
    exec(ours, scope)  # it asserts that loss and weights are equal
    assert capsys.readouterr().out == f"loss {scope['loss']:.4f}\n"


@pytest.mark.skipif("tensorflow" not in sys.modules, reason="its step is TensorFlow's")
def test_the_losses_of_one_channel_are_those_of_kdcore():
    scope: dict = {}
    exec(blocks(SCRATCH, "Keras")[0], scope)
    (one_channel,) = [code for code in blocks(SCRATCH) if "log_sigmoid" in code]
    exec(one_channel, scope)
    rng = np.random.default_rng(0)
    v, z = (rng.normal(0, 3, (2, 4, 4, 1)).astype(np.float32) for _ in range(2))
    labels = rng.integers(-1, 2, (2, 4, 4))
    soft, hard = scope["soft_loss"](v, z), scope["hard_loss"](labels, z)
    assert float(soft) == pytest.approx(float(kdcore.kd_loss(v, z, 2.0)), rel=1e-5)
    assert float(hard) == pytest.approx(float(kdcore.cross_entropy(labels, z)), rel=1e-5)


@pytest.mark.job
@pytest.mark.skipif(not find_spec("torch"), reason="the PyTorch half of the page needs torch")
def test_the_step_in_pytorch_has_the_losses_of_kdcore(tmp_path):
    """In a process of its own: TensorFlow and PyTorch together crash in some versions."""
    seeded = "import torch\ntorch.manual_seed(0)\n"
    again = "assert train_step(student, teacher, optimizer, images, labels) < loss\n"
    program = tmp_path / "page.py"  # the page's second block asserts that the losses are equal
    program.write_text("\n".join([seeded, *blocks(SCRATCH, "PyTorch"), again]))
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"loss \d\.\d{4}\n", done.stdout)


def test_both_steps_are_of_about_forty_lines():
    for tab in ("Keras", "PyTorch"):
        code = blocks(SCRATCH, tab)[0]
        step = code[code.index("TEMPERATURE") : code.index("def network")]
        assert len([line for line in step.splitlines() if line.strip()]) <= 40


def test_no_line_of_code_is_clipped():
    lines = [
        line
        for text in (QUICKSTART, SCRATCH)
        for code in blocks(text)
        for line in code.splitlines()
    ]
    assert [line for line in lines if len(line) > 74] == []


def test_the_site_has_six_tabs():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:")[1]
    assert len(re.findall(r"^  - ", navigation, re.MULTILINE)) <= 6
