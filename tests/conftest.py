"""Small data that the tests make themselves, and the real volumes where they exist."""

import json
import math
import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["MPLBACKEND"] = "agg"

import numpy as np
import pytest

import kdcore

# The site's tests need MkDocs and a browser: `nox -s site_tests`.
collect_ignore = [] if find_spec("mkdocs") else ["site"]


def make_case(index: int, shape=(8, 26, 20), labelled: bool = True) -> kdcore.Case:
    """A bright ellipsoid (label 1) with a brighter half (label 2) on noise."""
    rng = np.random.default_rng(index)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).astype(float)
    center = np.array(shape)[:, None, None, None] / 2 + rng.uniform(-2, 2, (3, 1, 1, 1))
    radius = np.array([3.0, 7.0, 5.0])[:, None, None, None]
    inside = (((grid - center) / radius) ** 2).sum(axis=0) < 1
    mask = inside.astype(np.uint8) * (1 + (grid[1] > center[1]))
    image = 100.0 * (rng.normal(size=shape) * 0.3 + mask)
    return kdcore.Case(
        f"case_{index:03d}", image[..., None], mask if labelled else None, (1.0, 1.0, 1.0)
    )


def write_nifti(path: Path, array: np.ndarray, affine=None) -> Path:
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
    return path


def write_msd(folder: Path, num_cases: int = 10) -> Path:
    """A folder in the Decathlon's layout."""
    training = []
    for case in map(make_case, range(num_cases)):
        name = f"{case.case_id}.nii.gz"
        write_nifti(folder / "imagesTr" / name, case.image[..., 0])
        write_nifti(folder / "labelsTr" / name, case.mask)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    description = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": training,
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def make_brain(index: int, shape=(8, 26, 20)) -> kdcore.Case:
    """`make_case` in four sequences, with labels 1 oedema and 2 tumour core, voxels of 2 mm."""
    case = make_case(index, shape)
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = 2, -2, 2, 1  # S, P, R
    affine[:3, 3] = -10, 20, -5
    image = case.image * np.array([0.8, 1.0, 1.2, 1.5])
    case_id, sequences = f"BraTS2021_{index:05d}", ("T1", "T1c", "T2", "FLAIR")
    return kdcore.Case(case_id, image, case.mask, (2.0, 2.0, 2.0), sequences, affine)


def write_brats(folder: Path, cases=None) -> Path:
    """A folder in the BraTS challenge's layout until 2021, of cases like `make_brain`'s."""
    for case in map(make_brain, range(3)) if cases is None else cases:
        stem = str(folder / case.case_id / case.case_id)
        for channel, ending in enumerate(("t1", "t1ce", "t2", "flair")):
            path = Path(f"{stem}_{ending}.nii.gz")
            write_nifti(path, case.image[..., channel], case.affine)
        if case.mask is not None:
            labels = np.array([0, 2, 4], np.uint8)[case.mask]
            write_nifti(Path(f"{stem}_seg.nii.gz"), labels, case.affine)
    return folder


def acdc_volume(seed=0, shape=(3, 5, 4)):
    """(image, mask) with ACDC's labels, slices first; each voxel of another value."""
    rng = np.random.default_rng(seed)
    return rng.permutation(math.prod(shape)).reshape(shape).astype(np.float32), rng.integers(
        0, 4, shape
    )


def write_h5(path: Path, image, label, **more) -> Path:
    """A pre-processed volume of ACDC."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, array in {"image": image, "label": label, **more}.items():
            file.create_dataset(key, data=array, compression="gzip")
    return path


@pytest.fixture(scope="session")
def cases():
    return [make_case(index) for index in range(6)]


@pytest.fixture(scope="session")
def msd_folder(tmp_path_factory):
    return write_msd(tmp_path_factory.mktemp("data") / "Task04_Hippocampus")


@pytest.fixture(scope="session")
def real_folder():
    folder = os.environ.get("KDCORE_DATA")
    if not folder:
        pytest.skip("KDCORE_DATA is not set: the tests on real volumes were skipped")
    return kdcore.hippocampus_folder(folder)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def clear_keras():
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.utils.clear_session(free_memory=False)
