"""nnU-Net as a teacher: the probabilities it exports."""

from pathlib import Path
from typing import Any

import numpy as np

from kdcore._files import digest, file_digest
from kdcore.data.cases import Case

_MOST_CLASSES = 255


class NNUNetProbabilities:
    """Teacher for `SoftTargets.write`: the `.npz` files of `nnUNetv2_predict
    --save_probabilities`, one a case.

    Args:
        folder: Holds `<case_id>.npz` with an array `probabilities` (or `softmax`, from
            version 1) of shape (C, Z, Y, X), the axis order of SimpleITK; it is turned
            into kdcore's (X, Y, Z, C).

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

    def digest(self) -> str:
        return digest([[p.name, file_digest(p)] for p in sorted(self.folder.glob("*.npz"))])

    def __call__(self, case: Case) -> np.ndarray:
        path = self.folder / f"{case.case_id}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: no probabilities for this case.")
        try:
            with np.load(path, allow_pickle=False) as content:
                key = next((k for k in ("probabilities", "softmax") if k in content), None)
                if key is None:
                    raise ValueError(f"it has no array `probabilities`, only {content.files}")
                _check_claim(content, key, case)
                array = content[key]
        except Exception as error:
            raise ValueError(f"{path} is no probability map: {error}.") from error
        return np.asarray(array, np.float32).transpose(3, 2, 1, 0)


def _check_claim(content: Any, key: str, case: Case) -> None:
    """Of the array's header, before anything of its size is allocated."""
    with content.zip.open(f"{key}.npy") as file:
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # NumPy writes another one for named fields only
            raise ValueError(f"its array is of .npy version {version}; expected (1, 0)")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    expected = case.image.shape[2::-1]
    if len(shape) != 4 or shape[1:] != expected or not 1 <= shape[0] <= _MOST_CLASSES:
        raise ValueError(f"its shape is {shape}; expected (classes, Z, Y, X), here {expected}")
    if dtype.kind not in "iuf":
        raise ValueError(f"it holds {dtype} values")
