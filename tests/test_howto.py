"""The how-to pages are programs: their code runs in the page's order, and ends in training."""

import re
from pathlib import Path

import pytest
from conftest import make_brain, make_case, write_brats, write_msd, write_nifti
from test_nnunet import describe

HOWTO = Path(__file__).parent.parent / "docs" / "howto"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SMALLER = {
    "(64, 48": "(24, 16",
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
    text = (HOWTO / "own-scans.md").read_text("utf-8") + (HOWTO / "own-model.md").read_text("utf-8")
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
def test_each_way_to_get_scans_goes_on_to_training(here, way):
    WAYS[way](here)
    *ways, _, training = blocks("own-scans.md")
    assert len(ways) == len(WAYS)
    scope: dict = {}
    exec(next(code for code in ways if way in code), scope)  # a page of this repository
    exec(training, scope)
    assert scope["distiller"].history.history["soft_loss"]
    assert list((here / "soft").iterdir())


def test_a_case_by_hand():
    scope: dict = {}
    exec(blocks("own-scans.md")[-2], scope)
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
