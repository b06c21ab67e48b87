"""Example 0: it runs, it needs no kdcore, kdcore does the same, and the student wins."""

import ast
import contextlib
import io
import runpy
from pathlib import Path

import keras
import numpy as np
import pytest

import kdcore

EXAMPLE = Path(__file__).parent.parent / "examples" / "00_distillation_in_sixty_lines.py"


def run():
    """What the example prints, and all its names."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = runpy.run_path(str(EXAMPLE))
    return printed.getvalue(), names


@pytest.fixture(scope="module")
def smoke():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDCORE_TIER", "smoke")
        patch.setattr("sys.argv", ["ipykernel_launcher.py", "-f", "kernel.json"])
        return run()


@pytest.mark.job
def test_it_prints_the_table(smoke):
    printed, names = smoke
    for arm, network in names["networks"].items():
        row = [arm, f"{network.count_params():,}", f"{names['dice'][arm]:.3f}"]
        assert row in [line.split() for line in printed.splitlines()]
    assert list(names["dice"]) == ["teacher", "baseline", "student"]
    assert all(0 <= value <= 1 for value in names["dice"].values())


@pytest.mark.job
def test_its_figure_says_what_it_shows(smoke):
    assert len(smoke[1]["figure"].get_label()) > 20


def test_it_needs_keras_numpy_and_matplotlib_only():
    imported = set()
    for node in ast.walk(ast.parse(EXAMPLE.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert imported == {"os", "keras", "matplotlib", "numpy"}


@pytest.mark.job
def test_kdcore_does_the_same(smoke):
    """Same weights at the start, batches and optimizer: the same losses and weights."""
    names = smoke[1]
    student, again = names["unet"](4, 1), names["unet"](4, 1)
    student.set_weights(names["first_weights"])
    again.set_weights(names["first_weights"])
    student.compile(keras.optimizers.Adam(1e-2), loss=names["distillation_loss"])
    distiller = kdcore.Distiller(
        again,
        names["teacher"],
        temperature=names["TEMPERATURE"],
        alpha=names["ALPHA"],
        soft_loss=kdcore.kd_loss,
    )
    distiller.compile(keras.optimizers.Adam(1e-2), loss=names["cross_entropy"])
    images, targets = names["images"], names["targets"]
    masks = targets[..., 0].astype("int32")
    assert (masks == -1).any() and (masks == 1).any()
    order = np.random.default_rng(0).permutation(len(images))[:80].reshape(5, 16)
    for batch in order:
        seen = images[batch][..., :1]
        both = {"student": seen, "teacher": images[batch]}
        by_example = student.train_on_batch(seen, targets[batch])
        by_kdcore = distiller.train_on_batch(both, masks[batch])[0]
        assert by_kdcore == pytest.approx(by_example, abs=1e-5)
    for a, b, first in zip(
        student.get_weights(), again.get_weights(), names["first_weights"], strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert not np.array_equal(a, first)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_student_is_better_than_the_baseline_in_ten_seeds(monkeypatch, capsys):
    gains = []
    for seed in range(10):
        monkeypatch.setenv("KDCORE_SEED", str(seed))
        dice = run()[1]["dice"]
        gains.append(dice["student"] - dice["baseline"])
        with capsys.disabled():
            print(seed, *(f"{arm} {value:.3f}" for arm, value in dice.items()), f"{gains[-1]:+.3f}")
    assert np.sum(np.array(gains) > 0) >= 9
    assert np.mean(gains) > 0.03
