"""The exported network says what the Keras network says."""

import importlib

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
pytestmark = [
    pytest.mark.job,
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exported from TensorFlow"),
]
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
    with pytest.raises(ValueError, match=r"Pass space=\(depth, height, width\)"):
        kdcore.export(network, tmp_path / "a.onnx")
    path = kdcore.export(network, tmp_path / "a.onnx", space=(8, 8, 6))
    image = np.random.default_rng(0).random((2, 8, 8, 6, 1)).astype(np.float32)
    logits = load_exported(path).predict_on_batch(image)
    np.testing.assert_allclose(logits, network.predict_on_batch(image), atol=1e-4)


def test_a_3d_network_as_litert_though_it_has_no_3d_pooling(tmp_path):
    network = kdcore.unet((8, 8, 6, 1), 2, filters=2, depth=1)
    image = np.random.default_rng(0).normal(size=(3, 8, 8, 6, 1)).astype(np.float32)
    expected = network.predict_on_batch(image)
    for name, how, most in (
        ("a", {}, 1e-4),
        ("b", {"precision": "float16", "batch_size": 1}, 1e-2),
        ("c", {"precision": "int8", "calibration": image}, 0.5),
    ):
        path = kdcore.export(network, tmp_path / f"{name}.tflite", **how)
        np.testing.assert_allclose(load_exported(path).predict_on_batch(image), expected, atol=most)


def layered(*between, policy="float32"):
    """A network of these layers, with a float32 or float16 head."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", dtype=policy)(inputs)
    for layer in between:
        x = layer(x)
    return keras.Model(inputs, keras.layers.Conv2D(2, 1, dtype=policy)(x), name="mine")


@pytest.mark.parametrize("ending", ["onnx", "tflite"])
def test_mixed_precision_is_written_in_float32(tmp_path, ending):
    within = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.ReLU(dtype="mixed_float16")])
    network = layered(keras.layers.BatchNormalization(), within, policy="mixed_float16")
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    exported = load_exported(kdcore.export(network, tmp_path / f"a.{ending}"))
    logits = exported.predict_on_batch(image)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, network.predict_on_batch(image), atol=1e-2)
    assert network.layers[1].compute_dtype == "float16"  # which stays as it was


def test_gelu_as_onnx(tmp_path):
    network = layered(keras.layers.Activation("gelu"))
    image = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype(np.float32)
    logits = load_exported(kdcore.export(network, tmp_path / "a.onnx")).predict_on_batch(image)
    np.testing.assert_allclose(logits, network.predict_on_batch(image), atol=1e-5)


def test_what_a_format_lacks_is_named(tmp_path):
    gelu = keras.layers.Lambda(keras.ops.gelu, arguments={"approximate": False})
    with pytest.raises(ValueError, match=r"mine cannot be written as a.onnx: ONNX has no Erfc\."):
        kdcore.export(layered(gelu), tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_says_something_else_is_not_written(student, tmp_path, monkeypatch):
    module = importlib.import_module("kdcore.export")  # the package's name for it is a function
    write = module._write_onnx

    def of_other_weights(network, path, shape):
        other = keras.models.clone_model(network)
        write(other, path, shape)

    monkeypatch.setattr(module, "_write_onnx", of_other_weights)
    with pytest.raises(ValueError, match=r"its logits are .* of their range from the network's"):
        kdcore.export(student, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


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
