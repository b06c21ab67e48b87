"""Every public name shows how it is used, and the example runs as it stands."""

import doctest
import inspect
import re

import pytest
from conftest import write_brats, write_msd
from test_acdc import write_patient as write_acdc
from test_lgg import write_patient as write_lgg
from test_nnunet import write_nnunet

import kdcore
import kdcore.data
import kdcore.evaluation

WINGS = (kdcore, kdcore.data, kdcore.evaluation)
PUBLIC = {
    f"{thing.__module__}.{name}": thing
    for wing in WINGS
    for name in getattr(wing, "__all__", ())
    if not inspect.ismodule(thing := getattr(wing, name))  # figures, tables
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDS = {"export": "onnxruntime", "load_exported": "ai_edge_litert", "read_lgg": "PIL"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Simulated scans are made once; small data sets lie where a reader would have them."""
    folder = tmp_path_factory.mktemp("examples")
    write_msd(folder / "data" / "Task04_Hippocampus", 2)
    write_brats(folder / "data" / "BraTS2021")
    write_acdc(folder / "data" / "ACDC")
    write_lgg(folder / "data" / "kaggle_3m")
    write_nnunet(folder / "data" / "Dataset001_Brain")
    return folder


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_example_runs(name, shared, tmp_path, monkeypatch):
    thing, short = PUBLIC[name], name.rsplit(".", 1)[1]
    if short in NEEDS:
        pytest.importorskip(NEEDS[short])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(shared / "data")
    monkeypatch.setenv("KDCORE_CACHE", str(shared / "cache"))
    monkeypatch.delenv("KDCORE_DATA", raising=False)
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(thing), {}, name, None, 0)
    assert test.examples, f"{name} has no example"
    said = []
    doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    assert not said, "".join(said)


def test_a_wrong_example_is_found_out():
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=lambda text: None).failed == 1


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_the_example_needs_nothing_but_what_it_imports(name):
    """So that it can be lifted: no name of a test, and kdcore's public names only."""
    source = inspect.getdoc(PUBLIC[name])
    imported = re.findall(r">>> (?:import|from) (.*)", source)
    ours = r"(keras, )?kdcore(\.data)?(, nibabel)?|kdcore\.evaluation import .*"
    known = rf"{ours}|numpy as np|pandas as pd"
    assert imported and all(re.fullmatch(known, line) for line in imported), imported
