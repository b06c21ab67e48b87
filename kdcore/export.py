"""A trained network to ONNX or LiteRT, and back again to be measured.

    kdcore.export(student, "student.onnx")
    kdcore.evaluate(kdcore.load_exported("student.onnx"), cases)

Beside the file lies `<file>.json`: names and shapes of input and output, precision and
the normalization that the image needs first. The graph holds the network alone, since a
percentile is a property of a whole scan, not of the slices a network sees.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np

from kdcore._files import file_digest, read_json, replacing, write_json
from kdcore._provenance import weights_digest
from kdcore.heads import check_head, check_input
from kdcore.normalization import Normalization, describe_normalization

PRECISIONS = ("float32", "float16", "int8")
INPUT, OUTPUT = "image", "logits"


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
        model: A network with raw logits, or a `Distiller`, whose student is taken.
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
        ValueError: For an unknown ending or precision, sizes that are not known, or missing
            calibration images.
        ImportError: If the packages of the extra `kdcore[export]` are not there.

    Examples:
        >>> import kdcore
        >>> model = kdcore.unet((16, 16, 1), num_classes=3, filters=2, depth=1)
        >>> kdcore.export(model, "student.onnx", sequences=["T1"]).name
        'student.onnx'

    Reference: int8 is Jacob et al. 2018, section 2, https://arxiv.org/abs/1712.05877
    """
    path, network = Path(path), getattr(model, "student", model)
    check_head(network)
    check_input(network)
    shape = _input_shape(network, batch_size, space)
    _check(path, precision, calibration, shape)
    with replacing(path) as temporary:
        if path.suffix == ".onnx":
            _write_onnx(network, temporary, shape)
        else:
            _write_litert(network, temporary, shape, precision, calibration)
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
        start = _onnx_session if path.suffix == ".onnx" else _litert_session
        try:
            self._run = start(path, threads)
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
            "sizes. Pass space=(height, width)."
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


@contextmanager
def _without_numpy_object() -> Iterator[None]:
    """Keras gives NumPy an attribute `object` for tf2onnx, with a warning; both go again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    if np.__dict__.get("object") is object:
        delattr(np, "object")
