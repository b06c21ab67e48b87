"""NIfTI files <-> `Case`, if a file is whole and agrees with itself.

Voxels are read as they lie in the file; `grid` moves a case to another one.
Left out on purpose: DICOM (convert it with dcm2niix).
"""

import gzip
import io
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.data.cases import Case, integer_mask, labels_in

SAME_PLACE = 0.1  # voxels that two grids' corners may lie apart
MOST_VOXELS = 512 * 1024**2
_LONGEST_HEADER = 540  # bytes, of NIfTI-2
_LATEST_START = 16 * 1024**2  # bytes; what lies before the voxels is header and extensions
_SLACK = 512  # bytes after the last voxel that are put up with
_PADDING = 1024**2  # of zeros
_QUATERNION = 1e-3  # what its squares may sum to above 1, in a header of rounded numbers
_UNITS = {1: "meter", 3: "micron"}  # the other numbers are mm, or say nothing


def read_case(
    image_path: str | Path | Sequence[str | Path],
    mask_path: str | Path | None = None,
    sequences: Sequence[str] = ("MRI",),
    labels: set[int] | None = None,
    *,
    case_id: str | None = None,
) -> Case:
    """One case from NIfTI files.

    Args:
        image_path: One file a sequence, in the order of `sequences`, all on one grid; or a single
            file: 3-D for one sequence, 4-D with the sequences last for several (5-D as ITK
            writes vectors). Further axes of size 1 do not matter, nor do the mask's.
        mask_path: Label map on the same grid, or None.
        sequences: Names of the sequences.
        labels: Label values that the mask may hold; None allows 0 … 255, and −1.
        case_id: Name of the case; by default the image's, of several files the mask's or the
            first's.

    Raises:
        FileNotFoundError, PermissionError: As the operating system says.
        ValueError: If a file is damaged, or image and mask do not fit together.

    Examples:
        >>> import kdcore, nibabel
        >>> import numpy as np
        >>> image = np.random.default_rng(0).normal(size=(32, 28, 4))
        >>> affine = np.diag([1.0, 1.0, 3.0, 1.0])
        >>> nibabel.save(nibabel.Nifti1Image(image, affine), "patient1.nii.gz")
        >>> case = kdcore.read_case("patient1.nii.gz", sequences=["T1"])
        >>> case.case_id, case.image.shape, case.spacing_mm
        ('patient1', (32, 28, 4, 1), (1.0, 1.0, 3.0))
    """
    if not isinstance(image_path, str | Path):
        return _read_files([*map(Path, image_path)], mask_path, sequences, labels, case_id)
    image_path = Path(image_path)
    voxels, spacing, affine = read_nifti(image_path)
    image = _with_sequences(voxels, sequences, image_path)
    if np.isfinite(image).all() and float(np.ptp(image)) == 0:
        raise ValueError(
            f"{image_path}: every voxel is {image.flat[0]}. The scan is empty; leave it out."
        )
    mask = None
    if mask_path is not None:
        mask = _read_mask(Path(mask_path), image_path, image.shape[:3], affine, labels)
        alike = image.shape[-1] == 1 and image.max() == mask.max()
        if alike and np.array_equal(image[..., 0], mask):
            raise ValueError(f"{image_path} holds what its mask holds: labels, no scan.")
    name = case_id_of(image_path) if case_id is None else case_id
    try:
        return Case(name, image, mask, spacing, tuple(sequences), affine)
    except ValueError as error:
        raise ValueError(f"{image_path}: {error}") from error


def save_mask(path: str | Path, mask: np.ndarray, case: Case) -> Path:
    """Write a `(D, H, W)` label map on the grid of `case` as NIfTI; unknown voxels as of 1 mm.

    Examples:
        >>> import kdcore
        >>> [case] = kdcore.simulate_cases(1, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> kdcore.save_mask("mask.nii.gz", case.mask, case).name
        'mask.nii.gz'
    """
    import nibabel

    if mask.shape != case.image.shape[:3]:
        raise ValueError(
            f"{case.case_id}: mask of shape {mask.shape}, case of {case.image.shape[:3]}."
        )
    spacing = case.spacing_mm if case.has_spacing else (1.0, 1.0, 1.0)
    affine = np.diag([*spacing, 1.0]) if case.affine is None else case.affine
    nibabel.save(nibabel.Nifti1Image(integer_mask(mask, path), affine), path)
    return Path(path)


def case_id_of(path: str | Path) -> str:
    """`hippocampus_001` for `.../hippocampus_001.nii.gz`."""
    return re.sub(r"(\.nii)?(\.gz)?$", "", Path(path).name, flags=re.I)


def check_grid(
    path: Path,
    grid: tuple[tuple[int, ...], np.ndarray],
    image_path: Path,
    image_grid: tuple[tuple[int, ...], np.ndarray],
) -> None:
    """Raise if a file's (shape, affine) are not those of the image it belongs to."""
    (shape, affine), (image_shape, image_affine) = grid, image_grid
    if shape != image_shape:
        raise ValueError(
            f"{path} has shape {shape}, but {image_path.name} has {image_shape}. "
            "All files of a case must lie on one grid."
        )
    apart = voxels_apart(shape[:3], affine, image_affine)
    if not apart <= SAME_PLACE:
        raise ValueError(
            f"{path} and {image_path.name} have different affines, so they lie in different "
            f"places of the scanner, up to {apart:.2g} voxels apart. Resample one to the other."
        )


def voxels_apart(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """How far a corner of a grid lies from where another affine has it, in that one's voxels.

    Millimetres would not do: a hundredth is nothing to a brain and twenty voxels to a cell. Nor
    would the affines' numbers: a small turn moves the far corner of a large grid by voxels.
    """
    ends = [(*corner, 1.0) for corner in product(*((-0.5, n - 0.5) for n in shape))]
    corners = np.array(ends).T  # (4, 8)
    return float(np.abs(np.linalg.solve(other, affine @ corners) - corners).max())


def _read_files(
    paths: Sequence[Path],
    mask_path: str | Path | None,
    sequences: Sequence[str],
    labels: set[int] | None,
    case_id: str | None,
) -> Case:
    """One case of a file a sequence, each checked as a case of its own."""
    if not paths or len(paths) != len(sequences):
        raise ValueError(
            f"{len(paths)} images, but {len(sequences)} sequences {tuple(sequences)}. Expected one "
            "file a sequence, in their order."
        )
    if case_id is None:
        case_id = case_id_of(mask_path or paths[0])
    first = read_case(paths[0], mask_path, sequences[:1], labels, case_id=case_id)
    images = [first.image]
    for path, name in zip(paths[1:], sequences[1:], strict=True):
        other = read_case(path, sequences=(name,))
        check_grid(path, _grid(other), paths[0], _grid(first))
        images.append(other.image)
    return replace(first, image=np.concatenate(images, axis=-1), sequences=tuple(sequences))


def _grid(case: Case) -> tuple[tuple[int, ...], np.ndarray]:
    return case.image.shape[:3], np.asarray(case.affine)


def _with_sequences(voxels: np.ndarray, sequences: Sequence[str], path: Path) -> np.ndarray:
    if voxels.ndim > 4:  # ITK's fourth axis is time
        voxels = voxels.reshape(*voxels.shape[:3], *(n for n in voxels.shape[3:] if n > 1))
    if voxels.ndim == 3 and len(sequences) == 1:
        voxels = voxels[..., None]
    if voxels.ndim != 4 or voxels.shape[-1] != len(sequences):
        raise ValueError(
            f"{path} has shape {voxels.shape}. Expected a 3-D scan, or 4-D with "
            f"{len(sequences)} sequences {tuple(sequences)} last."
        )
    return voxels.astype(np.float32)


def _read_mask(
    path: Path,
    image_path: Path,
    shape: tuple[int, ...],
    affine: np.ndarray,
    labels: set[int] | None,
) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"{image_path} has no mask: {path} does not exist.")
    voxels, _, mask_affine = read_nifti(path)
    if voxels.ndim > 3 and set(voxels.shape[3:]) == {1}:
        voxels = voxels.reshape(voxels.shape[:3])
    if voxels.ndim == 4 and voxels.shape[:3] == shape:
        raise ValueError(
            f"{path} has shape {voxels.shape}, but a mask has one label a voxel. If its "
            f"{voxels.shape[3]} volumes are regions that may overlap, read the image alone, and "
            "dataclasses.replace(case, mask=volumes, regions=names)."
        )
    check_grid(path, (voxels.shape, mask_affine), image_path, (shape, affine))
    mask = integer_mask(voxels, path)
    unknown = set(labels_in(mask)) - labels if labels else set()
    if unknown:
        raise ValueError(
            f"{path} holds the labels {sorted(unknown)}, which dataset.json does not name "
            f"(it names {sorted(labels or ())})."
        )
    return mask


def read_nifti(
    path: str | Path, *, directions_only: bool = False
) -> tuple[np.ndarray, tuple[float, ...], np.ndarray]:
    """Voxels (scaled as the header says), spacing in mm and affine of a NIfTI file.

    With `directions_only`, an affine whose axes all measure 1 mm is taken for directions without
    sizes, and gets the header's. Otherwise it and a header of other sizes contradict each other.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(p.name for p in path.iterdir())[:3]
        raise IsADirectoryError(f"{path} is a folder. Expected a file; it holds {found}.")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    with open(path, "rb"):  # a missing permission is the system's own error
        pass
    try:
        image = _load(path)
        voxels = np.asarray(image.dataobj)
        spacing = tuple(float(size) for size in image.header.get_zooms()[:3])
        affine = np.asarray(image.affine, dtype=np.float64)
    except _OtherKindError as error:
        raise ValueError(f"{path} is no readable NIfTI file: {error}") from error
    except Exception as error:  # nibabel raises whatever its parts raise
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{path} is no readable NIfTI file: {reason}. It may be cut short or another kind of "
            "file; fetch it again."
        ) from error
    if voxels.dtype.kind not in "iuf":
        raise ValueError(
            f"{path} holds {voxels.dtype} values; expected one real number a voxel. Of complex "
            "ones save the magnitude (np.abs), of colours one channel or a file for each."
        )
    sides = np.linalg.norm(affine[:3, : len(spacing)], axis=0)
    if directions_only and np.allclose(sides, 1, rtol=1e-3) and len(spacing) == 3:
        affine[:3, :3] *= spacing
        sides = np.array(spacing)
    if not (np.isfinite(affine).all() and np.allclose(sides, spacing, rtol=1e-3)):
        raise ValueError(
            f"{path} contradicts itself: voxels of {np.round(sides, 4).tolist()} mm by its affine, "
            f"of {np.round(spacing, 4).tolist()} mm by its header. Save it again with one of them."
        )
    return voxels, spacing, affine


_PAIR = (
    "it is one of a pair, .hdr and .img. Save it as one file: "
    'nibabel.save(nibabel.load("x.img"), "x.nii.gz").'
)


class _OtherKindError(ValueError):
    """A file that is whole and not damaged; the message says the way out."""


def _load(path: Path) -> Any:
    """The image, if lengths are in mm and the file holds just the voxels that its header claims.

    The file is read once and to its end, where gzip's checksum is (nibabel stops at the last
    voxel), but not beyond what the header claims, and what the header claims is not allocated
    before that much has come.
    """
    content = io.BytesIO()
    if re.search(r"\.(hdr|img)(\.gz)?$", path.name, re.I):
        raise _OtherKindError(_PAIR)
    with open(path, "rb") as file:
        begin = file.read(132)
    _refuse_other_kinds(begin, path.suffix.lower())
    with _opened(path) as file:
        content.write(file.read(_LONGEST_HEADER))
        kind, claimed = _claims(content.getvalue())
        while content.tell() <= claimed + _PADDING and (chunk := file.read(1 << 20)):
            content.write(chunk)
    held = content.tell()
    if held > claimed + _PADDING:
        raise _OtherKindError(
            f"its header claims {claimed} bytes, but it holds {held} or more: something lies "
            "behind the voxels. If the header is right, save it without: "
            'nibabel.save(nibabel.load("x.nii"), "y.nii.gz").'
        )
    content.seek(claimed + _SLACK)
    if not claimed <= held <= claimed + _PADDING or content.read().strip(b"\0"):
        raise ValueError(f"its header claims {claimed} bytes, but it holds {held} or more")
    content.seek(0)
    return kind.from_stream(content)


def _refuse_other_kinds(begin: bytes, ending: str) -> None:
    """Say of a file that begins so what it is, where that is known."""
    zipped = begin[:2] == b"\x1f\x8b"
    if ending in (".mgz", ".mgh"):
        raise _OtherKindError(
            'it is FreeSurfer\'s. Convert it: nibabel.save(nibabel.load(path), "x.nii.gz").'
        )
    if ending == ".gz" and begin and not zipped:
        raise _OtherKindError("it is not compressed: rename it to .nii.")
    if ending == ".nii" and zipped:
        raise _OtherKindError("it is compressed: rename it to .nii.gz.")
    kinds = {"DICOM": begin[128:132] == b"DICM", "NRRD": begin[:4] == b"NRRD"}
    kinds["MetaImage"] = begin.startswith((b"ObjectType", b"NDims"))
    if kinds["DICOM"]:
        raise _OtherKindError("it is DICOM. Convert its folder with dcm2niix.")
    if name := next((name for name, is_it in kinds.items() if is_it), None):
        raise _OtherKindError(
            f"it is {name}. Convert it: SimpleITK.WriteImage(SimpleITK.ReadImage(path), "
            '"x.nii.gz").'
        )


def _claims(block: bytes) -> tuple[Any, int]:
    """The class of nibabel for a file that begins so, and how many bytes the file must have."""
    kind, header = _header(block)
    if unit := _UNITS.get(int(header["xyzt_units"]) & 7):
        raise _OtherKindError(
            f"its lengths are in {unit}; expected mm. Save it with pixdim, srow and qoffset in mm: "
            'nibabel\'s header.set_xyzt_units("mm") says so.'
        )
    length = sum(float(header[f"quatern_{axis}"]) ** 2 for axis in "bcd")
    if header["qform_code"] > 0 and length > 1 + _QUATERNION:
        raise _OtherKindError(
            f"its quaternion's squares sum to {length:.4g}, more than 1, so it is no rotation. "
            "Save it with the affine that is right: nibabel's set_qform."
        )
    voxels = math.prod(map(int, header.get_data_shape()))
    if not 0 < voxels <= MOST_VOXELS:
        raise ValueError(f"its header claims {voxels} voxels; 1 to {MOST_VOXELS} can be read")
    if bytes(header["magic"]).rstrip(b"\0") in (b"ni1", b"ni2"):
        raise _OtherKindError(_PAIR)
    start, least = int(header["vox_offset"]), int(header["sizeof_hdr"])
    if not least <= start <= _LATEST_START:
        raise ValueError(
            f"its header claims that the voxels begin at byte {start}; expected {least} to "
            f"{_LATEST_START}"
        )
    return kind, start + voxels * header.get_data_dtype().itemsize


def _opened(path: Path) -> Any:
    return gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb")


def _header(block: bytes) -> tuple[Any, Any]:
    """Without the extensions behind it, which nibabel reads at any length."""
    import nibabel

    for kind in map(_patient, (nibabel.Nifti1Image, nibabel.Nifti2Image)):
        size = kind.header_class.template_dtype.itemsize
        if any(block[:4] == size.to_bytes(4, order) for order in ("little", "big")):
            return kind, kind.header_class(block[:size], check=False)
    raise ValueError("it does not begin with a NIfTI header")


@cache
def _patient(kind: Any) -> Any:
    """A class of nibabel's for headers whose quaternion is rounded to a little over 1."""
    header = kind.header_class
    header = type(header.__name__, (header,), {"quaternion_threshold": -_QUATERNION})
    return type(kind.__name__, (kind,), {"header_class": header})
