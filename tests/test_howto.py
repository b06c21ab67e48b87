"""The how-to pages are programs: their code runs in the page's order, and ends in training."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import make_brain, make_case, write_brats, write_msd, write_nifti
from test_nnunet import describe

HOWTO = Path(__file__).parent.parent / "docs" / "howto"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = "own-scans.md", "own-model.md", "any-teacher.md"
SMALLER = {
    "(64, 48": "(24, 16",
    "(64, 56": "(24, 16",
    "simulate_cases(24": "simulate_cases(6",
    "spacing_mm=3.0": "spacing_mm=6.0",
    "num_labelled=16": "num_labelled=3",
    "num_labelled=8": "num_labelled=2",
    "num_validation=5": "num_validation=1",
    "num_validation=4": "num_validation=1",
    "num_test=20": "num_test=2",
    "num_test=4": "num_test=2",
    "filters=16": "filters=2",
    "filters=8": "filters=2",
    "epochs=10": "epochs=1",
    "range(3)": "range(2)",
    "num_batches=100": "num_batches=1",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(page: str) -> list[str]:
    """A page's Python, at a smaller size: fewer scans, filters and epochs."""
    found = BLOCK.findall((HOWTO / page).read_text("utf-8"))
    for long, short in SMALLER.items():
        found = [code.replace(long, short) for code in found]
    return found


def test_every_size_that_is_made_smaller_is_there():
    text = "".join((HOWTO / page).read_text("utf-8") for page in PAGES)
    assert [long for long in SMALLER if long not in text] == []


def write_plain(folder: Path) -> None:
    for i in range(6):
        case = make_case(i)
        for name, array in (("T1", case.image[..., 0]), ("FLAIR", 2 * case.image[..., 0])):
            write_nifti(folder / f"p{i}" / f"p{i}_{name}.nii.gz", array)
        if i < 5:
            write_nifti(folder / f"p{i}" / f"p{i}_seg.nii.gz", case.mask)


def write_nnunet(folder: Path) -> None:
    describe(folder, labels={"background": 0, "front": 1, "back": 2}, numTraining=6)
    for case in map(make_case, range(6)):
        for channel in range(2):
            path = folder / "imagesTr" / f"{case.case_id}_{channel:04d}.nii.gz"
            write_nifti(path, case.image[..., 0] + channel)
        write_nifti(folder / "labelsTr" / f"{case.case_id}.nii.gz", case.mask)


WAYS = {
    "read_msd": lambda here: write_msd(here / "MyData", 6),
    "read_folder": lambda here: write_plain(here / "scans"),
    "read_nnunet": lambda here: write_nnunet(here / "nnUNet_raw" / "Dataset001_Brain"),
    "read_brats": lambda here: write_brats(here / "BraTS", map(make_brain, range(6))),
}


@pytest.mark.job
@pytest.mark.parametrize("way", WAYS)
def test_each_way_to_get_scans_goes_on_to_training(here, way, capsys):
    WAYS[way](here)
    *ways, _, training, baseline, new = blocks("own-scans.md")
    assert len(ways) == len(WAYS)
    scope: dict = {}
    exec(next(code for code in ways if way in code), scope)  # a page of this repository
    exec(training, scope)
    assert scope["distiller"].history.history["soft_loss"]
    assert list((here / "soft").iterdir()) and (here / "student.keras").exists()
    if way == "read_folder":
        (here / "scans" / "p5").rename(here / "new")
        for path in (here / "new").iterdir():
            path.rename(here / "new" / path.name.removeprefix("p5_"))
        exec(baseline, scope)
        exec(new, scope)
        told = capsys.readouterr().out
        assert "student: " in told and "baseline: " in told
        assert (here / "new" / "mask.nii.gz").exists()


@pytest.mark.job
def test_the_temperature_is_chosen_on_validation_cases(here, capsys):
    write_plain(here / "scans")
    *ways, _, training, _, _ = blocks("own-scans.md")
    scope: dict = {}
    exec(next(code for code in ways if "read_folder" in code), scope)
    exec(training, scope)
    capsys.readouterr()
    (choice,) = blocks("temperature-and-alpha.md")
    exec(choice, scope)
    told = re.findall(r"^(\d\.0) (\d\.\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert [float(temperature) for temperature, _ in told] == [1, 2, 4]
    assert all(0 <= float(score) <= 1 for _, score in told)


def test_a_case_by_hand():
    scope: dict = {}
    exec(blocks("own-scans.md")[-4], scope)
    assert scope["t1"].sequences == ("T1",) and scope["case"].spacing_mm == (2.0, 2.0, 2.0)


@pytest.mark.job
def test_a_model_of_ones_own(capsys):
    *program, export = blocks("own-model.md")
    assert "kdcore.export(" in export  # needs what tests/test_deploy.py asks for
    scope: dict = {}
    for code in program:
        exec(code, scope)
    for name in ("distiller", "hinted"):
        assert len(scope[name].history.history["loss"]) == 1
    history = scope["hinted"].history.history
    assert history["loss"][0] > history["hard_loss"][0] + history["soft_loss"][0], "and the hints"
    assert all(case_id in capsys.readouterr().out for case_id in [next(iter(scope["scores"]))])


@pytest.mark.job
@pytest.mark.filterwarnings("ignore:The teacher is")  # trained for one step
def test_any_teacher(here):
    """The maps that an nnU-Net and another program would have written lie there."""
    program = blocks("any-teacher.md")
    scope: dict = {}
    exec(program[0], scope)
    for folder in ("probabilities", "maps"):
        (here / folder).mkdir()
    for case in scope["training"]:
        of_voxels = np.full((*case.image.shape[:3], 3), 1 / 3, np.float32)
        np.save(here / "maps" / f"{case.case_id}.npy", of_voxels)
        transposed = np.moveaxis(of_voxels, -1, 0).transpose(0, 3, 2, 1)  # nnU-Net's own order
        np.savez(here / "probabilities" / f"{case.case_id}.npz", probabilities=transposed)
    taught = []
    for code in program[1:]:
        exec(code, scope)
        taught += [scope["student"]] if "taught_by(" in code else []
    assert len(taught) == 6 and len({id(student) for student in taught}) == 6
    assert [student.input_shape[-1] for student in taught] == [4, 4, 4, 1, 1, 4]
    assert {path.name for path in here.glob("soft-of-*")} == {
        f"soft-of-{what}"
        for what in ("nnunet", "maps", "three", "four-sequences", "two-sequences", "core")
    }
    assert len(scope["distiller"].history.history["loss"]) == 1
