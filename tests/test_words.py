"""What users bring that does not fit is named, with the way out, before a backend raises."""

import gzip
import json
import struct

import keras
import numpy as np
import pytest
from conftest import make_case, write_msd, write_nifti
from keras import layers

import kdcore

CASE = make_case(0)
VOXELS = CASE.image[..., 0]


def network(channels=1, rank=2, data_format=None, name=None):
    image = keras.Input((channels, None, None) if data_format else (*[None] * rank, channels))
    convolution = layers.Conv2D if rank == 2 else layers.Conv3D
    return keras.Model(image, convolution(3, 1, data_format=data_format)(image), name=name)


def written(folder, name, edit=None):
    path = write_nifti(folder / name, VOXELS)
    if edit is not None:
        path.write_bytes(edit(path.read_bytes()))
    return path


def with_magic(content, magic, start):
    changed = bytearray(content)
    struct.pack_into("<f", changed, 108, start)
    changed[344:348] = magic
    return bytes(changed)


FILES = {
    "a.img": (lambda b: b, r"one of a pair, .hdr and .img.*nibabel.save"),
    "a.hdr.gz": (gzip.compress, "one of a pair"),
    "header.nii": (lambda b: with_magic(b, b"ni1\0", 0.0), "one of a pair"),
    "plain.nii.gz": (lambda b: gzip.decompress(b), "not compressed: rename it to .nii"),
    "zipped.nii": (gzip.compress, "compressed: rename it to .nii.gz"),
    "dicom.nii": (lambda b: b"\0" * 128 + b"DICM" + b, "DICOM. Convert its folder with dcm2niix"),
    "a.mha": (lambda b: b"ObjectType = Image\n" + b, "MetaImage. Convert it: SimpleITK"),
    "a.nrrd": (lambda b: b"NRRD0004\n" + b, "NRRD. Convert it"),
    "a.mgz": (gzip.compress, "FreeSurfer's. Convert it: nibabel.save"),
    "long.nii": (
        lambda b: b + bytes(3 * 2**20),
        "something lies behind the voxels",
    ),
}


@pytest.mark.parametrize(("name", "edit", "match"), [(k, *v) for k, v in FILES.items()], ids=FILES)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, name, edit, match):
    first = written(tmp_path, "a.nii.gz" if name == "plain.nii.gz" else "a.nii")
    path = tmp_path / name
    path.write_bytes(edit(first.read_bytes()))
    with pytest.raises(ValueError, match=match):
        kdcore.read_case(path)


def test_endings_in_capitals_are_read(tmp_path):
    path = tmp_path / "Scan.NII.GZ"
    path.write_bytes(written(tmp_path, "a.nii.gz").read_bytes())
    case = kdcore.read_case(path)
    assert case.case_id == "Scan" and np.array_equal(case.image, CASE.image)


def test_complex_voxels(tmp_path):
    path = write_nifti(tmp_path / "a.nii", VOXELS.astype(np.complex64))
    with pytest.raises(ValueError, match=r"one real number a voxel.*np.abs"):
        kdcore.read_case(path)


def test_dataset_json_from_an_editor_and_with_foreign_paths(tmp_path):
    folder = write_msd(tmp_path, 1)
    path = folder / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark
    assert len(kdcore.read_msd(folder)) == 1
    description = json.loads(path.read_text("utf-8-sig"))
    description["training"][0]["image"] = "/home/me/imagesTr/case_000.nii.gz"
    path.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"within it, such as imagesTr/case_000.nii.gz"):
        kdcore.read_msd(folder)


P = np.eye(3, dtype=np.float32)[CASE.mask] * 0.9 + 1 / 30
MAPS = {
    "8 bit": (P * 255, "8-bit numbers: divide them by 255"),
    "percent": (P * 100, "percent: divide them by 100"),
    "16 bit": (P * 1000, "sum to 1000: divide them by that"),
    "log": (np.log(P), "log-probabilities: np.exp"),
    "channels first": (np.moveaxis(P, -1, 0), r"Classes come last: np.moveaxis\(p, 0, -1\)"),
    "a batch": (P[None], r"p\[0\]"),
    "labels": (CASE.mask, r"pass p\[..., None\]; labels are no probabilities"),
}


@pytest.mark.parametrize(("told", "match"), MAPS.values(), ids=MAPS)
def test_maps_that_are_something_else_are_called_so(tmp_path, told, match):
    def teacher(case):
        return told

    teacher.digest = "v1"
    with pytest.raises(ValueError, match=match):
        kdcore.SoftTargets.write(teacher, [CASE], tmp_path)


class Module:
    """What kdcore knows a PyTorch module by, which need not be installed."""

    def state_dict(self):
        return {}

    def modules(self):
        return []

    def __call__(self, x):
        raise TypeError("expected a tensor\nand a thousand lines more")


WITH_A_NETWORK = {
    "predict_mask": lambda it: kdcore.predict_mask(it, CASE),
    "evaluate": lambda it: kdcore.evaluate(it, [CASE]),
    "export": lambda it: kdcore.export(it, "a.onnx"),
    "student": lambda it: kdcore.Distiller(it),
    "teacher": lambda it: kdcore.Distiller(network(), it),
}


@pytest.mark.parametrize("use", WITH_A_NETWORK.values(), ids=WITH_A_NETWORK)
def test_a_torch_module_or_a_path_is_no_network(use):
    with pytest.raises(ValueError, match=r"Module, a PyTorch module.*function of a case"):
        use(Module())
    with pytest.raises(ValueError, match=r"a path. Load it first: keras.saving.load_model"):
        use("student.keras")


def test_a_torch_module_as_it_is_labels_no_case(tmp_path):
    with pytest.raises(ValueError, match="function.digest = module. It said: expected a tensor$"):
        kdcore.SoftTargets.write(Module(), [CASE], tmp_path)


def two_inputs():
    a, b = keras.Input((None, None, 1), name="T1"), keras.Input((None, None, 1), name="FLAIR")
    return keras.Model([a, b], layers.Conv2D(3, 1)(layers.Concatenate()([a, b])), name="two")


FITS = {
    "three channels": (lambda: network(3), (26, 20), "takes 3 sequences, the images have 1"),
    "3-D batches": (network, (8, 26, 20), r"takes 2-D images .* these are 3-D"),
    "2-D batches": (lambda: network(rank=3), (26, 20), r"takes 3-D images .* these are 2-D"),
    "two inputs": (two_inputs, (26, 20), r"two has 2 inputs, \['T1', 'FLAIR'\].*splits it"),
    "channels first": (
        lambda: network(data_format="channels_first"),
        (26, 20),
        "channels first.*data_format='channels_last'.*the weights are the same",
    ),
}


@pytest.mark.parametrize("role", ["student", "teacher"])
@pytest.mark.parametrize(("build", "shape", "match"), FITS.values(), ids=FITS)
def test_fit_says_which_network_takes_other_images(build, shape, match, role):
    odd = build()
    fitting = network(rank=len(odd.output_shape) - 2)
    student, teacher = (odd, None) if role == "student" else (fitting, odd)
    if role == "teacher" and len(shape) != len(odd.output_shape) - 2:
        pytest.skip("the student is told first")
    distiller = kdcore.Distiller(student, teacher, alpha=0.5 if teacher else 0.0)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=match):
        distiller.fit(kdcore.Batches([CASE], shape, batch_size=4), verbose=0)
    if shape == (26, 20) and "takes" not in match:
        with pytest.raises(ValueError, match=match):
            kdcore.predict_mask(odd, CASE)
