"""Same seed, same numbers: bit for bit on one machine, within a tolerance elsewhere.

See also: an interrupted run (`test_runs`), an example and the study (`test_examples`).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from few_steps import few_steps

pytestmark = pytest.mark.job
LOSSES = [0.819773, 0.758925, 0.752074, 0.733038, 0.726082, 0.715079]
NORMS = [
    0.95695, 1.98627, 0.08845, 2.45415, 2.01219, 0.07582, 3.52016, 2.81198, 0.11077, 4.5886,
    2.78895, 0.11177, 2.32521, 0.07073, 3.55145, 1.99047, 0.10269, 2.29071, 1.95746, 0.10534,
    0.93243, 0.09677,
]  # fmt: skip
"""Losses, and the norm of each weight, of `few_steps` with TensorFlow, JAX and PyTorch alike."""
LOSS_TOLERANCE, WEIGHT_TOLERANCE = 1e-5, 1e-4


def started(threads):
    """`few_steps` in a process of its own."""
    names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("few_steps.py"))],
        env={**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def processes():
    """Two with one thread, one with two."""
    children = [started(threads) for threads in (1, 1, 2)]
    return [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]


def test_same_seed_same_bits(processes):
    first, second, _ = processes
    assert first["digest"] == second["digest"] and first["losses"] == second["losses"]


def test_another_number_of_threads_within_tolerance(processes):
    one, _, two = processes
    np.testing.assert_allclose(one["losses"], two["losses"], atol=LOSS_TOLERANCE)
    np.testing.assert_allclose(one["weights"], two["weights"], atol=WEIGHT_TOLERANCE)


def test_any_backend_within_tolerance(processes):
    losses, weights = few_steps()
    np.testing.assert_allclose(losses, LOSSES, atol=LOSS_TOLERANCE)
    norms = [np.linalg.norm(w) for w in weights]
    np.testing.assert_allclose(norms, NORMS, atol=WEIGHT_TOLERANCE)
    flat = np.concatenate([w.ravel() for w in weights])
    np.testing.assert_allclose(flat, processes[0]["weights"], atol=WEIGHT_TOLERANCE)
    assert np.abs(np.diff(losses)).min() > 100 * LOSS_TOLERANCE  # it does learn
