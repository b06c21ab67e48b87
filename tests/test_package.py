"""What a user's first minute depends on."""

import subprocess
import sys

import pytest

import kdcore


def test_everything_public_is_documented():
    for name in kdcore.__all__:
        assert getattr(kdcore, name).__doc__, name


@pytest.mark.job
def test_import_is_light():
    # `import kdcore` is to cost `import keras` plus little: these are imported when used.
    # (Keras itself takes matplotlib and, since nilearn brings it, scikit-learn.)
    late = ["nibabel", "nilearn", "pooch", "meshmetrics", "vtk", "scipy.stats"]
    code = (
        "import sys, keras; before = set(sys.modules); import kdcore; "
        f"print([m for m in {late} if m in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_is_typed():
    from importlib.resources import files

    assert files("kdcore").joinpath("py.typed").is_file()
