"""The exported network says what the Keras network says."""

import keras
import numpy as np
import pytest
from conftest import make_case

import kdcore
from kdcore._files import file_digest, read_json, write_json
from kdcore.export import load_exported
from kdcore.training import weights_digest

pytest.importorskip("onnxruntime")
pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exported from TensorFlow"
)
SHAPE = (32, 24)


@pytest.fixture(scope="module")
def student():
    keras.utils.set_random_seed(0)
    network = kdcore.unet((*SHAPE, 1), 3, filters=4, depth=2)
    network.compile("adam", kdcore.DiceCrossEntropy())
    case = make_case(0)
    network.fit(kdcore.Batches([case], SHAPE, 4, num_batches=4), verbose=0)  # moves the averages
    return network


@pytest.fixture(scope="module")
def images():
    x, _ = kdcore.Batches([make_case(1)], SHAPE, 7, shuffle=False)[0]
    return x


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
@pytest.mark.parametrize("batch_size", [None, 1, 4])
def test_logits_are_keras_logits(student, images, tmp_path, ending, batch_size):
    path = kdcore.export(student, tmp_path / f"student.{ending}", batch_size=batch_size)
    for threads, count in ((1, 7), (1, 3), (2, 7)):
        exported = load_exported(path, threads)
        assert exported.input_shape == (batch_size, *SHAPE, 1)
        logits = exported.predict_on_batch(images[:count])
        np.testing.assert_allclose(logits, student.predict_on_batch(images[:count]), atol=1e-4)


def test_names_are_those_of_the_description(student, tmp_path):
    import onnx

    path = kdcore.export(student, tmp_path / "a.onnx", sequences=["T1"])
    graph = onnx.load(path).graph
    description = load_exported(path).description
    assert [i.name for i in graph.input] == ["image"] == [description["input"]["name"]]
    assert [o.name for o in graph.output] == ["logits"] == [description["output"]["name"]]
    assert description["normalization"] == "percentile" and description["sequences"] == ["T1"]
    assert description["model_digest"] == weights_digest(student)
    assert description["output"]["shape"] == [None, *SHAPE, 3]
    assert "object" not in vars(np)  # which Keras' exporter adds


def test_smaller_numbers_make_smaller_files_that_agree(student, images, tmp_path):
    expected = student.predict_on_batch(images)
    sizes = {}
    for precision, share in (("float32", 0), ("float16", 1e-3), ("int8", 0.1)):
        calibration = images if precision == "int8" else None
        path = kdcore.export(
            student,
            tmp_path / f"{precision}.tflite",
            batch_size=1,
            precision=precision,
            calibration=calibration,
        )
        difference = np.abs(load_exported(path).predict_on_batch(images) - expected)
        assert difference.mean() <= share * np.ptp(expected) + 1e-6
        sizes[precision] = path.stat().st_size
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]


def test_an_exported_network_can_be_evaluated(student, tmp_path):
    cases = [make_case(1)]
    path = kdcore.export(kdcore.Distiller(student), tmp_path / "s.onnx")
    expected = kdcore.evaluate(student, cases)
    np.testing.assert_equal(kdcore.evaluate(load_exported(path), cases), expected)


def test_a_3d_network_and_open_sizes(tmp_path):
    network = kdcore.unet((None, None, None, 1), 2, filters=2, depth=1)
    with pytest.raises(ValueError, match="Pass space="):
        kdcore.export(network, tmp_path / "a.onnx")
    path = kdcore.export(network, tmp_path / "a.onnx", space=(8, 8, 6))
    image = np.random.default_rng(0).random((2, 8, 8, 6, 1)).astype(np.float32)
    logits = load_exported(path).predict_on_batch(image)
    np.testing.assert_allclose(logits, network.predict_on_batch(image), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("a.h5", {}, "must be .onnx or .tflite"),
        ("a.tflite", {"precision": "int4"}, "precision must be one of"),
        ("a.onnx", {"precision": "float16"}, "use .tflite"),
        ("a.tflite", {"precision": "int8"}, "needs calibration images"),
        ("a.tflite", {"calibration": np.zeros((1, *SHAPE, 1))}, "only int8 does"),
        (
            "a.tflite",
            {"precision": "int8", "calibration": np.zeros((2, 8, 8, 1))},
            r"must have shape \(N, 32, 24, 1\)",
        ),
        ("a.onnx", {"space": (8, 8)}, "does not fit"),
    ],
)
def test_what_cannot_be_exported_is_refused(student, tmp_path, name, arguments, message):
    with pytest.raises(ValueError, match=message):
        kdcore.export(student, tmp_path / name, **arguments)
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_belong_together_are_refused(student, images, tmp_path):
    path = kdcore.export(student, tmp_path / "a.onnx", batch_size=1)
    with pytest.raises(ValueError, match="takes images of shape"):
        load_exported(path).predict_on_batch(np.zeros((1, 8, 8, 1)))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="does not belong"):
        load_exported(path)
    with pytest.raises(FileNotFoundError, match="kdcore.export writes both"):
        load_exported(tmp_path / "b.tflite")
    with pytest.raises(ValueError, match="ending"):
        load_exported(tmp_path / "b.h5")


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_what_no_runtime_can_read_is_refused(student, tmp_path, ending):
    """Random bytes with a digest that fits, and a description without shapes."""
    path = kdcore.export(student, tmp_path / f"a.{ending}")
    description = read_json(tmp_path / f"a.{ending}.json")
    for shape in (5, [None, 32, 24, None], None):
        wrong = {**description, "input": shape if shape is None else {"shape": shape}}
        write_json(tmp_path / f"a.{ending}.json", wrong)
        with pytest.raises(ValueError, match=f"a.{ending}.json names no shapes"):
            load_exported(path)
    path.write_bytes(bytes(range(256)) * 8)
    changed = {**description, "file_digest": file_digest(path)}
    write_json(tmp_path / f"a.{ending}.json", changed)
    with pytest.raises(ValueError, match=f"a.{ending} is no network that can be run"):
        load_exported(path)
