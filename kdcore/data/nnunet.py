"""nnU-Net as a teacher: the probabilities it exports."""

import pickletools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.data.cases import Case
from kdcore.data.nifti import SAME_PLACE, voxels_apart

_MOST_CLASSES = 255
_MOST_BYTES = 64 * 1024**2  # of what lies beside a map
_AS_IT_LIES = np.array([[0, 1], [1, 1], [2, 1]])  # nibabel's: where each axis goes, and its sign


class NNUNetProbabilities:
    """Teacher for `SoftTargets.write`: the `.npz` files of `nnUNetv2_predict
    --save_probabilities`, one a case.

    Args:
        folder: Holds `<case_id>.npz` with an array `probabilities` (or `softmax`, from
            version 1) of shape (C, Z, Y, X), the axis order of SimpleITK; it is turned
            into kdcore's (X, Y, Z, C). `<case_id>.pkl`, which nnU-Net writes beside it, says
            where the map lies: it is turned as the case lies if only axes differ (nnU-Net's
            `NibabelIOWithReorient`, or `kdcore.reorient`), and refused if it lies elsewhere.
            Without that file shapes alone are compared. More maps may come later.

    Examples:
        >>> import kdcore
        >>> import numpy as np
        >>> maps = np.full((2, 6, 8, 4), 0.5)  # classes, Z, Y, X: as nnU-Net writes them
        >>> np.savez("patient1.npz", probabilities=maps)
        >>> teacher = kdcore.NNUNetProbabilities(".")
        >>> case = kdcore.Case("patient1", np.zeros((4, 8, 6, 1)), None, spacing_mm=(1.0, 1.0, 1.0))
        >>> teacher(case).shape
        (4, 8, 6, 2)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not any(self.folder.glob("*.npz")):
            raise FileNotFoundError(f"{self.folder} holds no .npz probability maps.")

    def case_digest(self, case_id: str) -> list[Path]:
        """The files that answer for a case."""
        beside = self._path(case_id).with_name(f"{case_id}.pkl")
        return [self._path(case_id), *[p for p in [beside] if p.is_file()]]

    def __call__(self, case: Case) -> np.ndarray:
        from nibabel import orientations

        path, *beside = self.case_digest(case.case_id)
        turn = _turn(beside[0], case) if beside and case.affine is not None else _AS_IT_LIES
        expected = tuple(case.image.shape[int(axis)] for axis in turn[::-1, 0])  # (Z, Y, X)
        try:
            with np.load(path, allow_pickle=False) as content:
                key = next((k for k in ("probabilities", "softmax") if k in content), None)
                if key is None:
                    raise ValueError(f"it has no array `probabilities`, only {content.files}")
                _check_claim(content, key, expected)
                array = content[key]
        except Exception as error:
            raise ValueError(f"{path} is no probability map: {error}.") from error
        probabilities = np.asarray(array, np.float32).transpose(3, 2, 1, 0)
        return np.asarray(orientations.apply_orientation(probabilities, turn))

    def _path(self, case_id: str) -> Path:
        path = self.folder / f"{case_id}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: no probabilities for this case.")
        return path


def _check_claim(content: Any, key: str, expected: tuple[int, ...]) -> None:
    """Of the array's header, before anything of its size is allocated."""
    with content.zip.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # NumPy writes another one for named fields only
            raise ValueError(f"its array is of .npy version {version}; expected (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    if len(shape) != 4 or shape[1:] != expected or not 1 <= shape[0] <= _MOST_CLASSES:
        raise ValueError(f"its shape is {shape}; expected (classes, Z, Y, X), here {expected}")
    if dtype.kind not in "iuf":
        raise ValueError(f"it holds {dtype} values")


def _turn(path: Path, case: Case) -> np.ndarray:
    """How the map's axes turn into the case's, if it lies there."""
    from nibabel import orientations

    affine = _affine(path)
    if affine is None:
        return _AS_IT_LIES
    there, here = map(orientations.io_orientation, (affine, case.affine))
    turn = orientations.ornt_transform(there, here)
    shape = [case.image.shape[int(axis)] for axis in turn[:, 0]]
    turned = affine @ orientations.inv_ornt_aff(turn, shape)
    apart = voxels_apart(case.image.shape[:3], turned, np.asarray(case.affine))
    if not apart <= SAME_PLACE:
        raise ValueError(
            f"{case.case_id}: by {path} its probabilities lie up to {apart:.2g} voxels from the "
            "case. Pass the case as nnU-Net was given it, neither resampled nor moved; `reorient` "
            "does no harm."
        )
    return turn


def _affine(path: Path) -> np.ndarray | None:
    """Of the map that a `.pkl` file of nnU-Net's lies beside; None if it tells none in 3-D."""
    affine: np.ndarray | None
    try:
        about = _content(path)
        by_itk = _value(about, "sitk_stuff")
        if stuff := _value(about, "nibabel_stuff"):
            found = _value(stuff, "reoriented_affine") or _value(stuff, "original_affine")
            affine = _matrix(found)
        elif by_itk:
            affine = _of_itk(*[_value(by_itk, key) for key in ("spacing", "origin", "direction")])
        elif _value(about, "itk_spacing"):  # version 1
            keys = ("itk_spacing", "itk_origin", "itk_direction")
            affine = _of_itk(*[_value(about, key) for key in keys])
        else:
            return None
        if affine is not None and np.linalg.matrix_rank(affine) < 4:
            raise ValueError(f"{affine.tolist()} is no affine")
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} does not say where the map beside it lies: {error}. Expected what nnU-Net "
            "writes; without the file shapes alone are compared."
        ) from error
    return affine


def _of_itk(
    spacing: Sequence[float], origin: Sequence[float], direction: Sequence[float]
) -> np.ndarray | None:
    """ITK's x and y run to the left and to the back, NIfTI's to the right and to the front."""
    if len(spacing) != 3:
        return None
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3)) * np.asarray(spacing, float)
    affine[:3, 3] = origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


_MEMORIES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_RECALLS = ("GET", "BINGET", "LONG_BINGET")
_ADDING = ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD")


def _content(path: Path) -> list[Any]:
    """A `.pkl` file as nested lists of the numbers and texts in it.

    Python's own reader makes whatever objects the file names and so runs foreign code. Here the
    file's steps are only followed: nothing is looked up or called. `{a: b}` becomes `[a, b]`, and
    an object the list of what it would be made of.
    """
    with open(path, "rb") as file:
        steps = file.read(_MOST_BYTES)
    stack: list[Any] = []
    marks: list[int] = []
    memory: dict[int, Any] = {}
    value: Any
    for step, value, _ in pickletools.genops(steps):
        if step.name == "MARK":
            marks.append(len(stack))
        elif step.name in _MEMORIES:
            memory[len(memory) if value is None else int(value)] = stack[-1]
        elif step.name in _RECALLS:
            stack.append(memory[int(value)])
        elif step.name in ("NONE", "NEWTRUE", "NEWFALSE"):
            stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(step.name))
        elif value is not None and step.stack_after:
            stack.append(value)
        elif step.stack_after:
            taken = [kind.name for kind in step.stack_before]
            first = (
                marks.pop() - taken.index("mark") if "mark" in taken else len(stack) - len(taken)
            )
            parts = stack[first:]
            del stack[first:]
            if step.name in _ADDING:
                parts[0].extend(parts[1:])
                parts = parts[0]
            stack.append(parts)
    return list(stack.pop())


def _value(pairs: Any, key: str) -> Any:
    """Of a dict."""
    return next((v for k, v in zip(pairs[::2], pairs[1::2], strict=True) if k == key), None)


def _matrix(value: list[Any]) -> np.ndarray:
    """Of NumPy's array: what it would be made of, in the two ways that Python writes it."""
    *_, parts = value
    if len(parts) == 5:
        _, shape, kind, columns_first, numbers = parts
    else:
        numbers, kind, shape, order = parts
        columns_first = order == "F"
    name, order = kind[1][0], kind[2][1]
    array = np.frombuffer(numbers, np.dtype(f"{order}{name}")).astype(np.float64)
    return array.reshape(shape, order="F" if columns_first else "C")
