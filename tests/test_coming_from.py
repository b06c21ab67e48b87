"""The page "Coming from ..." runs as it stands, on small data of each layout."""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import make_brain, make_case, write_brats, write_nifti
from test_nnunet import describe

import kdcore

pytestmark = pytest.mark.job
PAGE = Path(__file__).parent.parent / "docs" / "howto" / "coming-from.md"


def code(section: str) -> str:
    part = PAGE.read_text("utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL))


def run(section: str, scope: dict, smaller: dict[str, str]) -> dict:
    """Its lines, at smaller sizes: fewer scans, filters and epochs."""
    source = code(section)
    for long, short in smaller.items():
        assert long in source
        source = source.replace(long, short)
    exec(source, scope)  # a page of this repository
    return scope


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def maps_of(case):
    """Probabilities that are right everywhere, (D, H, W, C)."""
    return np.eye(3, dtype=np.float32)[case.mask] * 0.7 + 0.1


def test_nnunet(here):
    raw = here / "Dataset001_Brain"
    describe(raw, labels={"background": 0, "front": 1, "back": 2}, numTraining=3)
    (here / "maps").mkdir()
    for case in map(make_case, range(3)):
        for channel in range(2):
            path = raw / "imagesTr" / f"{case.case_id}_{channel:04d}.nii.gz"
            write_nifti(path, case.image[..., 0] + channel)
        write_nifti(raw / "labelsTr" / f"{case.case_id}.nii.gz", case.mask)
        p = maps_of(case).transpose(3, 2, 1, 0)  # as nnU-Net's arrays lie
        np.savez(here / "maps" / f"{case.case_id}.npz", probabilities=p)
    smaller = {
        "(256, 224)": "(32, 24)",
        "labelled=80": "labelled=2",
        "test=20": "test=1",
        "filters=8": "filters=2",
        "epochs=40": "epochs=1",
    }
    scope = run("nnU-Net", {}, smaller)
    [scores] = scope["scores"].values()
    assert set(scores) == {"1", "2"} and (here / "runs/student/network.keras").is_file()


def test_monai(here):
    torch = pytest.importorskip("torch")
    listed = []
    for case in map(make_case, range(2)):
        entry = {"image": f"{case.case_id}.nii.gz", "label": f"{case.case_id}_seg.nii.gz"}
        write_nifti(here / entry["image"], case.image[..., 0])
        write_nifti(here / entry["label"], case.mask)
        write_nifti(here / "maps" / f"{case.case_id}_prob.nii.gz", maps_of(case))
        listed.append(entry)
    (here / "datalist.json").write_text(json.dumps({"training": listed}))
    network = torch.nn.Conv3d(1, 3, 1)
    torch.save(network.state_dict(), here / "model.pt")
    scope = run("MONAI", {"network": network}, {"(96, 96)": "(32, 24)"})
    targets = kdcore.SoftTargets.open("soft")
    expected = maps_of(make_case(0))
    assert targets["case_000"].shape == expected.shape
    written = np.exp(scope["soft_targets"]["case_000"].astype(np.float32))
    np.testing.assert_allclose(written, expected, atol=1e-3)
    image = kdcore.normalize(make_case(0).image, "zscore")  # one voxel by hand
    weight, bias = (p.detach().numpy() for p in network.parameters())
    logits = weight[:, 0, 0, 0, 0] * image[1, 2, 3, 0] + bias
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(np.exp(targets["case_000"][1, 2, 3]), p, atol=1e-3)


def test_segmentation_models(here):
    from PIL import Image

    for name in ("images", "masks"):
        (here / "data" / name).mkdir(parents=True)
    for case in map(make_case, range(2)):
        pixels = np.clip(case.image[4, ..., 0], 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(here / "data" / "images" / f"{case.case_id}.png")
        Image.fromarray(case.mask[4]).save(here / "data" / "masks" / f"{case.case_id}.png")
    x = inputs = keras.Input((None, None, 3))  # needs multiples of 32
    for _ in range(5):
        x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Concatenate()([inputs, keras.layers.UpSampling2D(32)(x)])
    network = keras.Model(inputs, keras.layers.Conv2D(3, 1, activation="softmax")(x))
    network.save(here / "unet.keras")
    scope = run("segmentation_models", {}, {})
    image = kdcore.normalize(scope["cases"][0].image, "minmax")  # (1, 26, 20, 1)
    padded = np.pad(image, ((0, 0), (3, 3), (6, 6), (0, 0)), mode="edge").repeat(3, axis=-1)
    expected = network.predict_on_batch(padded)[:, 3:-3, 6:-6]
    written = np.exp(scope["soft_targets"]["case_000"].astype(np.float32))
    np.testing.assert_allclose(written, expected, atol=1e-3)
    assert scope["batches"][0][0].shape[1:] == (32, 32, 1)


SMALL_BRATS = {
    "(96, 80)": "(16, 16)",
    "labelled=100": "labelled=1",
    "test=20": "test=1",
    "filters=16": "filters=2",
    "epochs=40": "epochs=1",
}


def test_brats(here):
    write_brats(here / "BraTS2021", map(make_brain, range(3)))
    scope = run("BraTS", {}, SMALL_BRATS)
    assert scope["batches"][0][0].shape[1:] == (16, 16, 1)
    assert len(scope["scores"]) == 1 and len(scope["soft_targets"]) == 2
    assert all("whole tumour" in entry for entry in scope["scores"].values())


def test_regions_that_overlap(here):
    write_brats(here / "BraTS2021", map(make_brain, range(3)))
    scope = run("Regions that overlap", {}, SMALL_BRATS)
    x, y = scope["batches"][0]
    assert x.shape[1:] == (16, 16, 1) and y["mask"].shape[1:] == (16, 16, 2)
    for entry in scope["scores"].values():
        assert list(entry) == ["whole tumour", "tumour core"]


def test_plain_folders(here):
    for index in range(4):
        case = make_brain(index, (20, 64, 60))
        person, session = divmod(index, 2)
        stem = f"scans/sub-{person}/ses-{session}/anat/sub-{person}_ses-{session}"
        for channel, name in ((0, "T1w"), (3, "FLAIR")):
            write_nifti(here / f"{stem}_{name}.nii.gz", case.image[..., channel], case.affine)
        write_nifti(here / f"{stem}_mask.nii.gz", case.mask, case.affine)
    smaller = {"labelled=20": "labelled=1", "validation=5": "validation=0", "test=10": "test=1"}
    scope = run("Plain folders", {}, smaller)
    assert {case.sequences for case in scope["cases"]} == {("T1", "FLAIR")}
    split = scope["split"]
    people = [{i.split("_")[0] for i in part} for part in (split.labelled, split.test)]
    assert people[0].isdisjoint(people[1]) and len(split.labelled) == 2
