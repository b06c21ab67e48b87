"""A trained network to ONNX or LiteRT, and back again to be measured.

    kdcore.export(student, "student.onnx")
    kdcore.evaluate(kdcore.load_exported("student.onnx"), cases)

A file is run once before it counts as written, and must say what the network says. Beside it
lies `<file>.json`: names and shapes of input and output, precision and the normalization that the
image needs first. The graph holds the network alone, since a percentile is a property of a whole
scan, not of the slices a network sees.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from kdcore._files import file_digest, read_json, replacing, write_json
from kdcore._provenance import weights_digest
from kdcore.heads import check_head, check_input, received
from kdcore.normalization import Normalization, describe_normalization

PRECISIONS = ("float32", "float16", "int8")
INPUT, OUTPUT = "image", "logits"
_APART = {"float32": 1e-3, "float16": 2e-2, "int8": 0.25}
"""The most that a file's logits may be from the network's, as a share of the logits' range; of
int8 on average, of the others anywhere."""


def export(
    model: keras.Model,
    path: str | Path,
    *,
    batch_size: int | None = None,
    space: Sequence[int] | None = None,
    precision: str = "float32",
    calibration: np.ndarray | None = None,
    normalization: Normalization = "percentile",
    sequences: Sequence[str] | None = None,
) -> Path:
    """Write a network as ONNX (`.onnx`) or LiteRT (`.tflite`).

    Args:
        model: A network with raw logits, or a `Distiller`, whose student is taken. One of mixed
            precision is written in float32.
        path: Its ending decides the format.
        batch_size: A fixed number of images; None leaves it open.
        space: Spatial sizes, for a network whose own are None.
        precision: "float32"; for LiteRT also "float16" (half the size) and "int8" (a quarter,
            and integer arithmetic; input and output stay float32).
        calibration: For "int8", images `(N, ..., S)` as the network sees them; their ranges
            decide the steps. A few hundred slices will do.
        normalization: What the image needs before the network; written into the JSON.
        sequences: Names of the sequences in their order, for the JSON.

    Returns:
        The path. The file's input is `image` (B, ..., S) float32, its output `logits`
        (B, ..., C) float32.

    Raises:
        ValueError: For an unknown ending or precision, sizes that are not known, missing
            calibration images, or a network that the format cannot hold: the file was run and
            did not say what the network says. Then nothing is written.
        ImportError: If the packages of the extra `kdcore[export]` are not there.

    Examples:
        >>> import kdcore
        >>> model = kdcore.unet((16, 16, 1), num_classes=3, filters=2, depth=1)
        >>> kdcore.export(model, "student.onnx", sequences=["T1"]).name
        'student.onnx'

    Reference: int8 is Jacob et al. 2018, section 2, https://arxiv.org/abs/1712.05877
    """
    path, network = Path(path), getattr(model, "student", model)
    if not isinstance(network, keras.Model):
        raise ValueError(f"export writes a keras.Model. {received(network)}")
    check_head(network)
    check_input(network)
    shape = _input_shape(network, batch_size, space)
    _check(path, precision, calibration, shape)
    with replacing(path) as temporary, _in_words(network, path):
        if path.suffix == ".onnx":
            _write_onnx(_for_export(network, path.suffix), temporary, shape)
        else:
            written = _for_export(network, path.suffix)
            _write_litert(written, temporary, shape, precision, calibration)
        _compare(network, temporary, shape, precision, calibration)
    write_json(
        _json(path),
        {
            "input": {"name": INPUT, "shape": shape, "dtype": "float32"},
            "output": {"name": OUTPUT, "shape": [*shape[:-1], network.output_shape[-1]]},
            "precision": precision,
            "normalization": describe_normalization(normalization),
            "sequences": None if sequences is None else list(sequences),
            "params": network.count_params(),
            "model_digest": weights_digest(network),
            "file_digest": file_digest(path),
        },
        sealed=True,
    )
    return path


class Exported:
    """An exported network, for `evaluate`, `predict_probabilities` and `predict_mask`.

    Attributes:
        description: The JSON beside the file.
        input_shape: As of a `keras.Model`, `(B, ..., S)`.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.path, self.name, self.threads = path, path.stem, threads
        self.description = _read_description(path)
        self.input_shape = tuple(self.description["input"]["shape"])
        try:
            self._run = _session(path, threads)
        except ImportError:
            raise
        except Exception as error:  # the runtimes raise whatever their parsers raise
            raise ValueError(f"{path} is no network that can be run: {error}") from error

    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """Logits `(B, ..., C)` of any number of normalized images `(B, ..., S)`."""
        images = np.ascontiguousarray(images, dtype=np.float32)
        expected = self.input_shape[1:]
        if images.shape[1:] != expected:
            raise ValueError(
                f"{self.path.name} takes images of shape {expected}. Received: {images.shape[1:]}."
            )
        size = self.input_shape[0]
        if size is None:
            return self._run(images)
        parts = [
            self._run(_filled(images[i : i + size], size)) for i in range(0, len(images), size)
        ]
        return np.concatenate(parts)[: len(images)]


def load_exported(path: str | Path, threads: int = 1) -> Exported:
    """Open what `export` wrote, in ONNX Runtime or LiteRT.

    Args:
        path: The `.onnx` or `.tflite` file; its JSON must lie beside it.
        threads: Processor threads to use.

    Raises:
        FileNotFoundError, ValueError: If the file or its JSON is missing, or they do not belong
            together.
        ImportError: If the runtime (extra `kdcore[export]`) is not installed.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> model = kdcore.unet((16, 16, 1), num_classes=3, filters=2, depth=1)
        >>> network = kdcore.load_exported(kdcore.export(model, "student.tflite", batch_size=1))
        >>> network.predict_on_batch(np.zeros((1, 16, 16, 1), np.float32)).shape
        (1, 16, 16, 3)
    """
    return Exported(Path(path), threads)


def _input_shape(
    network: keras.Model, batch_size: int | None, space: Sequence[int] | None
) -> list[int | None]:
    own = list(network.input_shape[1:])
    sizes = own[:-1] if space is None else list(space)
    if len(sizes) != len(own) - 1 or any(
        o not in (None, s) for o, s in zip(own, sizes, strict=False)
    ):
        raise ValueError(f"space {tuple(sizes)} does not fit the network's input {tuple(own)}.")
    if None in (*sizes, own[-1]):
        raise ValueError(
            f"The network takes images of any size, {tuple(own)}; an exported one needs fixed "
            f"sizes. Pass space=({', '.join(('depth', 'height', 'width')[-len(sizes) :])})."
        )
    return [batch_size, *sizes, own[-1]]


def _check(
    path: Path, precision: str, calibration: np.ndarray | None, shape: list[int | None]
) -> None:
    _check_ending(path)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {PRECISIONS}. Received: {precision!r}.")
    if path.suffix == ".onnx" and precision != "float32":
        raise ValueError(f"ONNX files are written in float32; use .tflite for {precision}.")
    if (precision == "int8") != (calibration is not None):
        raise ValueError("int8 needs calibration images, and only int8 does. Pass calibration=.")
    if calibration is not None and (
        not len(calibration) or list(calibration.shape[1:]) != shape[1:]
    ):
        raise ValueError(
            f"Calibration images must have shape (N, {', '.join(map(str, shape[1:]))}). "
            f"Received: {calibration.shape}."
        )


def _check_ending(path: Path) -> None:
    if path.suffix not in (".onnx", ".tflite"):
        raise ValueError(f"The ending must be .onnx or .tflite (LiteRT). Received: {path.name}.")


def _for_export(network: keras.Model, ending: str) -> keras.Model:
    """The same network of layers that the format has, in float32; itself where nothing differs."""

    def clone(layer: Any) -> Any:
        if not isinstance(layer, keras.Layer):  # an operation without weights
            return layer
        if ending == ".tflite" and _tiles(layer):
            average = isinstance(layer, layers.AveragePooling3D)
            return _Pooling3D(layer.pool_size, average, name=layer.name)
        copy = type(layer).from_config(_in_float32(layer.get_config()))
        if ending == ".onnx" and getattr(copy, "activation", None) is keras.activations.gelu:
            copy.activation = _gelu
        return copy

    differs = any(
        layer.compute_dtype != "float32"
        or (ending == ".tflite" and _tiles(layer))
        or (ending == ".onnx" and getattr(layer, "activation", None) is keras.activations.gelu)
        for layer in _layers_of(network)
    )
    if not differs or not getattr(network, "outputs", None):  # subclassed: written as it is
        return network
    graph = keras.Model(network.inputs, network.outputs[0])  # never compiled
    twin = keras.models.clone_model(graph, clone_function=clone, recursive=True)
    twin.set_weights(network.get_weights())
    return twin


def _layers_of(network: Any) -> Iterator[keras.Layer]:
    """All layers, those of networks within the network, too."""
    for layer in network.layers:
        yield layer
        yield from _layers_of(layer) if hasattr(layer, "layers") else ()


def _in_float32(config: Any) -> Any:
    """A layer's settings without another precision than float32."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return {**config, "config": {**config["config"], "name": "float32"}}
        return {
            key: "float32" if key == "dtype" and isinstance(item, str) else _in_float32(item)
            for key, item in config.items()
        }
    return [_in_float32(item) for item in config] if isinstance(config, list) else config


def _gelu(x: Any) -> Any:
    """As `keras.activations.gelu`, by erf, which ONNX has; TensorFlow's erfc it has not."""
    return 0.5 * x * (1.0 + ops.erf(x / math.sqrt(2.0)))


def _tiles(layer: Any) -> bool:
    """Whether a layer pools 3-D windows that do not overlap; LiteRT has no 3-D pooling."""
    return (
        isinstance(layer, layers.MaxPooling3D | layers.AveragePooling3D)
        and layer.pool_size == layer.strides
        and layer.padding == "valid"
        and layer.data_format == "channels_last"
    )


class _Pooling3D(layers.Layer):
    """Every so many voxels are taken, from each start; their largest or their mean is kept."""

    def __init__(self, sizes: Sequence[int], average: bool, name: str) -> None:
        super().__init__(name=name)
        self.sizes, self.average = tuple(sizes), average

    def call(self, x: Any) -> Any:
        spaces = zip(x.shape[1:4], self.sizes, strict=True)
        ends = [None if have is None else have // size * size for have, size in spaces]
        parts = [
            x[:, d : ends[0] : strides[0], h : ends[1] : strides[1], w : ends[2] : strides[2]]
            for strides in [self.sizes]
            for d, h, w in product(*map(range, self.sizes))
        ]
        total = parts[0]
        for part in parts[1:]:
            total = total + part if self.average else ops.maximum(total, part)
        return total / len(parts) if self.average else total


def _compare(
    network: keras.Model,
    path: Path,
    shape: list[int | None],
    precision: str,
    calibration: np.ndarray | None,
) -> None:
    """Run the file once, and raise if it does not say what the network says."""
    size = shape[0] or 2
    if calibration is None:
        space = [size, *(edge or 1 for edge in shape[1:])]
        images = np.random.default_rng(0).normal(size=space).astype(np.float32)
    else:
        images = np.asarray(calibration[:size], np.float32)
        images = _filled(images, size)
    expected = np.asarray(ops.convert_to_numpy(network.predict_on_batch(images)), np.float32)
    found = _session(path, 1)(images)
    if found.shape != expected.shape:
        raise ValueError(f"its logits have the shape {found.shape}, the network's {expected.shape}")
    apart = np.abs(found - expected) / max(1.0, float(np.ptp(expected)))
    half = any(layer.compute_dtype != "float32" for layer in _layers_of(network))
    most = max(_APART[precision], _APART["float16"] if half else 0.0)
    told = apart.mean() if precision == "int8" else apart.max()
    if not told <= most:  # NaN, too
        raise ValueError(
            f"run on random images, its logits are {told:.2g} of their range from the network's, "
            f"and {most:g} is the most for {precision}"
        )


@contextmanager
def _in_words(network: keras.Model, path: Path) -> Iterator[None]:
    """What converters and runtimes raise, as one sentence with the way out."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error} {_elsewhere()}".strip()) from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        missing = re.search(r"Flex(\w+)|No Op registered for (\w+)", str(error))
        kind, other = ("ONNX", "LiteRT") if path.suffix == ".onnx" else ("LiteRT", "ONNX")
        reason = f"{kind} has no {missing[1] or missing[2]}" if missing else lines[0][:300]
        raise ValueError(
            f"{network.name} cannot be written as {path.name}: {reason.rstrip('.')}. "
            + (_elsewhere() or f"Build it of other layers, or try {other}.")
        ) from error


def _session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    return (_onnx_session if path.suffix == ".onnx" else _litert_session)(path, threads)


def _write_onnx(network: keras.Model, path: Path, shape: list[int | None]) -> None:
    with _explained("onnx and tf2onnx"), _without_numpy_object():
        import onnx

        network.export(path, format="onnx", input_signature=_signature(shape), verbose=False)
        written = onnx.load(path)
    old = written.graph.output[0].name
    for node in written.graph.node:
        node.output[:] = [OUTPUT if name == old else name for name in node.output]
    written.graph.output[0].name = OUTPUT
    onnx.checker.check_model(written)
    onnx.save(written, path)


def _write_litert(
    network: keras.Model,
    path: Path,
    shape: list[int | None],
    precision: str,
    calibration: np.ndarray | None,
) -> None:
    options: dict[str, Any] = {}
    with _explained("tensorflow"):
        import tensorflow as tf
    if precision != "float32":
        options["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        options["target_spec"] = {"supported_types": [tf.float16]}
    if calibration is not None:
        batch = np.asarray(calibration, np.float32)
        size = shape[0] or 1
        options["representative_dataset"] = lambda: (
            [_filled(batch[i : i + size], size)] for i in range(0, len(batch), size)
        )
    network.export(
        str(path), format="litert", input_signature=_signature(shape), verbose=False, **options
    )


def _signature(shape: list[int | None]) -> list[keras.InputSpec]:
    return [keras.InputSpec(shape=tuple(shape), dtype="float32", name=INPUT)]


def _onnx_session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    with _explained("onnxruntime"):
        import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([OUTPUT], {INPUT: images})[0]


def _litert_session(path: Path, threads: int) -> Callable[[np.ndarray], np.ndarray]:
    with _explained("ai-edge-litert"):
        from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(str(path), num_threads=threads)
    (source,), (sink,) = interpreter.get_input_details(), interpreter.get_output_details()
    state: dict[str, Any] = {"shape": None}

    def run(images: np.ndarray) -> np.ndarray:
        if images.shape != state["shape"]:
            interpreter.resize_tensor_input(source["index"], images.shape)
            interpreter.allocate_tensors()
            state["shape"] = images.shape
        interpreter.set_tensor(source["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(sink["index"])

    return run


def _filled(images: np.ndarray, size: int) -> np.ndarray:
    """A whole batch; the last image is repeated."""
    return np.concatenate([images, np.repeat(images[-1:], size - len(images), axis=0)])


def _json(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _read_description(path: Path) -> dict[str, Any]:
    _check_ending(path)
    for needed in (path, _json(path)):
        if not needed.is_file():
            raise FileNotFoundError(f"{needed} does not exist. kdcore.export writes both.")
    description = read_json(_json(path))
    if not isinstance(description, dict) or description.get("file_digest") != file_digest(path):
        raise ValueError(f"{_json(path)} does not belong to {path.name}. Export it again.")
    if not all(_is_shape(description.get(key)) for key in ("input", "output")):
        raise ValueError(f"{_json(path)} names no shapes of input and output. Export it again.")
    return description


def _is_shape(described: Any) -> bool:
    """`{"shape": [batch or None, ..., channels]}`."""
    shape = described.get("shape") if isinstance(described, dict) else None
    return (
        isinstance(shape, list)
        and len(shape) >= 3
        and all(size is None or (type(size) is int and size > 0) for size in shape)
        and shape[-1] is not None
    )


@contextmanager
def _explained(packages: str) -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"This needs {packages}: pip install 'kdcore[tensorflow,export]'. ({error})"
        ) from error


def _elsewhere() -> str:
    """The way out where the network runs on a backend that exports less."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return ""
    return (
        f"Keras runs on {backend} here, which exports less: save the network as .keras, and load "
        "and export it in a process with KERAS_BACKEND=tensorflow."
    )


@contextmanager
def _without_numpy_object() -> Iterator[None]:
    """Keras gives NumPy an attribute `object` for tf2onnx, with a warning; both go again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    if np.__dict__.get("object") is object:
        delattr(np, "object")
