"""nnU-Net as a teacher: the probabilities it exports."""

from pathlib import Path

import numpy as np

from kdcore.cases import Case
from kdcore.files import digest, file_digest


class NNUNetProbabilities:
    """Teacher for `SoftTargets.write`: the `.npz` files of `nnUNetv2_predict
    --save_probabilities`, one a case.

    Args:
        folder: Holds `<case_id>.npz` with an array `probabilities` (or `softmax`, from
            version 1) of shape (C, Z, Y, X), the axis order of SimpleITK; it is turned
            into kdcore's (X, Y, Z, C).
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
                array = content[key]
            if array.dtype.kind not in "iuf":
                raise ValueError(f"it holds {array.dtype} values")
        except Exception as error:
            raise ValueError(f"{path} is no probability map: {error}.") from error
        if array.ndim != 4:
            raise ValueError(f"{path} has shape {array.shape}; expected (C, Z, Y, X).")
        return np.asarray(array, np.float32).transpose(3, 2, 1, 0)
