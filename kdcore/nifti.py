"""One NIfTI file -> voxels, spacing and affine, if the file is whole and agrees with itself."""

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np

MOST_VOXELS = 512 * 1024**2
_LONGEST_HEADER = 540  # bytes, of NIfTI-2
_LATEST_START = 16 * 1024**2  # bytes; what lies before the voxels is header and extensions
_SLACK = 512  # bytes after the last voxel that are put up with


def read_nifti(path: str | Path) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    """Voxels (scaled as the header says), spacing in mm and affine of a NIfTI file."""
    import nibabel

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    with open(path, "rb"):  # a missing permission is the system's own error
        pass
    try:
        _check_size(path)
        image = nibabel.load(path)
        voxels = np.asarray(image.dataobj)
        spacing = tuple(float(size) for size in image.header.get_zooms()[:3])
        affine = np.asarray(image.affine, dtype=np.float64)
    except Exception as error:  # nibabel raises whatever its parts raise
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is no readable NIfTI file: {reason}. It may be cut short or another kind of "
            "file; fetch it again."
        ) from error
    if voxels.dtype.kind not in "iuf":
        raise ValueError(f"{path} holds {voxels.dtype} values; expected numbers.")
    sides = np.linalg.norm(affine[:3, : len(spacing)], axis=0)
    if not (np.isfinite(affine).all() and np.allclose(sides, spacing, rtol=1e-3)):
        raise ValueError(
            f"{path} contradicts itself: voxels of {np.round(sides, 4).tolist()} mm by its affine, "
            f"of {np.round(spacing, 4).tolist()} mm by its header. Save it again with one of them."
        )
    return voxels, spacing, affine


def _check_size(path: Path) -> None:
    """Raise unless lengths are in mm and the file holds just the voxels that its header claims.

    Before anything of that size is allocated; and a gzip file is read to its end, where the
    checksum is (nibabel stops at the last voxel), but not if it goes on and on.
    """
    with _opened(path) as file:
        header = _header(file.read(_LONGEST_HEADER))
        unit = header.get_xyzt_units()[0]
        if unit not in ("mm", "unknown"):
            raise ValueError(f"its lengths are in {unit}; expected mm")
        voxels = math.prod(map(int, header.get_data_shape()))
        if not 0 < voxels <= MOST_VOXELS:
            raise ValueError(f"its header claims {voxels} voxels; 1 to {MOST_VOXELS} can be read")
        start, least = int(header["vox_offset"]), int(header["sizeof_hdr"])
        if not least <= start <= _LATEST_START:
            raise ValueError(
                f"its header claims that the voxels begin at byte {start}; expected {least} to "
                f"{_LATEST_START}"
            )
        claimed = start + voxels * header.get_data_dtype().itemsize
        file.seek(0)
        held = 0
        while held <= claimed + _SLACK and (chunk := file.read(1 << 20)):
            held += len(chunk)
    if not claimed <= held <= claimed + _SLACK:
        raise ValueError(f"its header claims {claimed} bytes, but it holds {held} or more")


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.suffix == ".gz" else open(path, "rb")


def _header(block: bytes) -> Any:
    """Without the extensions behind it, which nibabel reads at any length."""
    import nibabel

    for kind in (nibabel.Nifti1Header, nibabel.Nifti2Header):
        size = kind.template_dtype.itemsize
        if any(block[:4] == size.to_bytes(4, order) for order in ("little", "big")):
            return kind(block[:size], check=False)
    raise ValueError("it does not begin with a NIfTI header")
