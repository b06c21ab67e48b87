"""Soft targets: per-voxel log-probabilities of whole cases, on disk.

Whoever makes the probabilities is a teacher: a network, several, a 3-D one for a 2-D
student, one that saw other sequences, an nnU-Net outside Keras. A folder holds

    manifest.json      digest of the teacher, normalization, number of classes, names of regions
    <case_id>.npy      (D, H, W, C) float16 log-probabilities; of regions, which may overlap,
                       logits log p/(1 - p)
    <case_id>.json     digests of each sequence that was labelled, of the array, and of the
                       teacher's own file for the case, if it has one

A case's JSON is written last, so a case is either whole or not there.
"""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from scipy import special
from tqdm import tqdm

from kdcore._cluster import connected, spread
from kdcore._files import digest, file_digest, open_array, read_sealed, replacing, write_json
from kdcore._provenance import case_digest, teacher_digest, unseen
from kdcore.data.cases import Case, forget
from kdcore.data.splits import Split
from kdcore.inference import predict_probabilities
from kdcore.normalization import Normalization, describe_normalization

Teacher = Any
"""A `keras.Model` with raw logits, or a callable case -> `(D, H, W, C)` probabilities."""

FORMAT = 2
_LEAST_PROBABILITY = 1e-30
_LEAST_OF_A_REGION = 1e-7
_SAME_PROBABILITY = 0.01  # float16 rounds by 0.0002, a GPU may by a little more


class SoftTargetsError(ValueError):
    """Soft targets on disk are damaged, incomplete or made for something else."""


class SoftTargets:
    """Read access to a folder of soft targets; make one with `write` or `open`.

    `soft_targets[case_id]` is a read-only memory-mapped `(D, H, W, C)` float16 array of
    log-probabilities; where the cases have `regions` it is `(D, H, W, R)`, logits of each region
    on its own. `probabilities(case_id)` is the same as probabilities. Its digest is checked the
    first time it is asked for, and again when the file changed.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> teacher = kdcore.unet((32, 28, 4), num_classes=3, filters=2, depth=1)
        >>> soft_targets = kdcore.SoftTargets.write(teacher, cases, "soft")
        >>> soft_targets[cases[0].case_id].shape == (*cases[0].mask.shape, 3)
        True
        >>> soft_targets = kdcore.SoftTargets.open("soft", teacher=teacher, cases=cases)
        >>> batches = kdcore.Batches(cases, shape=(32, 28), soft_targets=soft_targets)
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._whole: dict[str, _Whole] = {}

    @classmethod
    def write(
        cls,
        teacher: Teacher | Sequence[Teacher],
        cases: Iterable[Case],
        folder: str | Path,
        *,
        normalization: Normalization = "percentile",
        window: Sequence[int] | None = None,
        split: Split | None = None,
        ray: str | None = None,
        num_cpus: float = 1,
        num_gpus: float = 0,
    ) -> "SoftTargets":
        """Label cases with a teacher, case by case; a second call goes on where it stopped.

        Args:
            teacher: A model, a callable case -> probabilities `(D, H, W, C)`, or a list of
                either, whose mean probability is taken. A callable's attribute `digest` says
                what it is: a text such as "v1", its PyTorch module, arrays, a `Path` of a file,
                or a function that returns these. One whose answers lie in a file a case has a
                function `case_digest(case_id)` instead, so that files may be added. Without
                either a warning says what cannot be seen.
            cases: The cases to label; their masks are not looked at. Of an iterator, such as a
                generator that reads one scan after the other, one case is held at a time.
            folder: Where to write. Cases that are there already are skipped, unless their image
                or the teacher's own file for them changed.
            normalization: Of the images, for teachers that are models.
            window: As for `predict_probabilities`, for models and scans too large for the memory.
            split: If given, only training cases may be labelled.
            ray: Label with the workers of Ray (`pip install 'kdcore[ray]'`): "local" for processes
                on this machine, "auto" or "host:6379" for a cluster. Each holds one network and
                is sent one case at a time; this process reads the cases and writes the folder, so
                workers need neither. The files are the same, on a CPU bit for bit if a
                worker has as many threads.
            num_cpus: Of each worker, for `ray`; so many threads it has.
            num_gpus: Of each worker, for `ray`; 0.5 lets two share one.

        Raises:
            ConnectionError: If Ray is not installed, no cluster answers, or a worker has another
                kdcore, Python or Keras.
            SoftTargetsError: If the folder holds soft targets of another teacher,
                normalization or number of classes. Of a callable without a `digest`, only
                its name and its answer to one case that is there already are compared.
            LeakageError: If a case is one of `split`'s validation or test cases.
            ValueError: If the teacher's output is no probability map of the case, or there are no
                cases.
        """
        folder = Path(folder)
        if split is not None:
            cases = _require(split, cases)
        header = {
            "format": FORMAT,
            "teacher": teacher_digest(teacher),
            "normalization": describe_normalization(normalization),
            "window": None if window is None else list(window),
        }
        names, earlier = unseen(teacher), None
        if (folder / "manifest.json").exists():
            _compare_header(folder, read_sealed(folder / "manifest.json", SoftTargetsError), header)
            told = _cannot_tell(folder, names)
            earlier = cls.open(folder) if names else None
        else:
            told = _cannot_see(names)
        how = (teacher, normalization, window)
        work = _Labelling(folder, header, teacher)
        count = len(cases) if isinstance(cases, Sized) else None
        asked: Iterable[Case] = tqdm(cases, "soft targets", count, leave=False, disable=None)
        if earlier is not None:
            asked = earlier._checked(asked, *how, work.written)
        missing = filter(work.is_missing, asked)
        if ray is None:
            for case in missing:
                work.keep(case, _log_probabilities(case, *how))
        else:
            room = {"num_cpus": num_cpus, "num_gpus": num_gpus}
            with connected(ray) as cluster:
                answers = spread(cluster, _log_probabilities, missing, *how, **room)
                with closing(answers):
                    for case, answer in answers:
                        work.keep(case, answer)
        if not (folder / "manifest.json").exists():
            raise ValueError("SoftTargets.write needs at least one case to label. Received: none.")
        if names:
            warnings.warn(told, stacklevel=2)
        targets = cls.open(folder)
        if unknown := sorted(set(range(targets.num_classes)) - set(targets.known_classes)):
            warnings.warn(_does_not_know(folder, unknown), stacklevel=2)
        return targets

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        teacher: Teacher | Sequence[Teacher] | None = None,
        cases: Iterable[Case] = (),
        normalization: Normalization = "percentile",
    ) -> "SoftTargets":
        """Open a folder, and check it against whatever is passed.

        Args:
            folder: What `write` wrote.
            teacher: If given, the teacher it must be of.
            cases: Cases that must be in it, with the very images that were labelled.
            normalization: That the cases must have been labelled with.

        Raises:
            FileNotFoundError: If there are no soft targets.
            SoftTargetsError: Saying what changed.
        """
        folder = Path(folder)
        if not (folder / "manifest.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no soft targets: it has no manifest.json. "
                "Make them with SoftTargets.write."
            )
        manifest = read_sealed(folder / "manifest.json", SoftTargetsError)
        known = isinstance(manifest, dict) and manifest.get("format") == FORMAT
        if not (known and isinstance(manifest.get("num_classes"), int)):
            raise SoftTargetsError(f"{folder / 'manifest.json'} is of an unknown format.")
        targets = cls(folder, manifest)
        if teacher is not None:
            _compare_header(folder, manifest, {"teacher": teacher_digest(teacher)})
            targets._check_answers(teacher)
            if names := unseen(teacher):
                warnings.warn(_cannot_tell(folder, names), stacklevel=2)
        cases = list(cases)
        if cases or normalization != "percentile":
            targets.check_images(cases, normalization)
        return targets

    def __getitem__(self, case_id: str) -> np.ndarray:
        path = self.folder / f"{case_id}.npy"
        record = self._record(case_id)
        if not path.is_file():
            raise SoftTargetsError(f"{path} is missing. Run SoftTargets.write again.")
        whole = self._whole.get(case_id)
        state = _state(path.stat())
        if (whole is None or whole.state != state) and file_digest(path) != record["array"]:
            raise SoftTargetsError(
                f"{path} is not the file that was written: its digest changed. Delete "
                f"{case_id}.json beside it and run SoftTargets.write again."
            )
        array: Any = open_array(path)
        if (array.dtype, array.ndim, array.shape[-1]) != (np.float16, 4, self.num_classes):
            raise SoftTargetsError(
                f"{path} holds {array.dtype} {array.shape}, not float16 (D, H, W, classes)."
            )
        if not array.flags.c_contiguous:
            raise SoftTargetsError(f"{path} is not in C order, as `np.save` writes a map.")
        self._whole[case_id] = _Whole(state, array.offset)
        return np.asanyarray(array)

    def voxels(self, case_id: str, where: np.ndarray) -> np.ndarray:
        """Log-probabilities of some voxels, without a file that stays open or a map in memory.

        Args:
            case_id: The case.
            where: `(n,)` flat indices into its `(D, H, W)`.

        Returns:
            `(n, C)` float16.
        """
        first, channels = int(where.min()), self.num_classes
        size, width = int(where.max()) + 1 - first, channels * np.float16().itemsize
        path = f"{self.folder}/{case_id}.npy"
        for _ in range(2):
            with open(path, "rb", buffering=0) as file:
                whole = self._whole.get(case_id)
                if whole is not None and whole.state == _state(os.fstat(file.fileno())):
                    file.seek(whole.offset + first * width)
                    read = np.frombuffer(file.read(size * width), np.float16)
                    return read.reshape(size, channels)[where - first]
            self[case_id]  # checks it
        raise SoftTargetsError(f"{path} changes while it is read.")

    def __contains__(self, case_id: object) -> bool:
        return (self.folder / f"{case_id}.json").is_file()

    def __iter__(self) -> Iterator[str]:
        """Ids of the cases that are whole, sorted; macOS' `._*` files are ignored."""
        names = [path.stem for path in self.folder.glob("*.json")]
        return iter(sorted(n for n in names if n != "manifest" and n[:2] != "._"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def probabilities(self, case_id: str) -> np.ndarray:
        """`(D, H, W, C)` float32 that sum to 1, or of each region on its own."""
        stored = self[case_id].astype(np.float32)
        if self.regions is not None:
            return np.asarray(special.expit(stored))
        return np.asarray(special.softmax(stored, axis=-1))

    @property
    def num_classes(self) -> int:
        """Channels of the arrays; a Bernoulli teacher gives 2."""
        return int(self.manifest["num_classes"])

    @property
    def regions(self) -> tuple[str, ...] | None:
        """Names of the regions that may overlap, or None where each voxel has one class."""
        names = self.manifest.get("regions")
        return None if names is None else tuple(names)

    @property
    def known_classes(self) -> tuple[int, ...]:
        """The classes to which some case's map gives a probability above 0.

        Another one the teacher does not know: a softmax is nowhere exactly 0.
        """
        every = range(self.num_classes)
        told = {label for one in self for label in self._record(one).get("classes", every)}
        return tuple(sorted(told)) if len(told) > 1 else tuple(every)

    def digest(self) -> str:
        """Of the teacher and of all arrays."""
        return digest(self.manifest, [self._record(case_id)["array"] for case_id in self])

    def check_images(self, cases: Iterable[Case], normalization: Normalization) -> None:
        """Raise `SoftTargetsError` unless these very images were labelled.

        A student may see fewer sequences than its teacher; those it sees must be known.
        """
        _compare_header(
            self.folder, self.manifest, {"normalization": describe_normalization(normalization)}
        )
        for case in cases:
            _compare_sequences(self.folder, self._record(case.case_id)["image"], case)

    def _check_answers(self, teacher: Teacher | Sequence[Teacher]) -> None:
        """Raise if what the teacher answers a case with is not what was written."""
        for case_id in self:
            if self._record(case_id).get("teacher") != case_digest(teacher, case_id):
                raise SoftTargetsError(
                    f"{self.folder}: the teacher's own file for {case_id} is not the one that the "
                    "soft targets were made from. Write them again with SoftTargets.write."
                )

    def _was_labelled(self, case: Case) -> bool:
        """Whether this very image's answer is there."""
        there = case.case_id in self and (self.folder / f"{case.case_id}.npy").is_file()
        return there and self._record(case.case_id)["image"] == _digests(case)

    def _checked(
        self,
        cases: Iterable[Case],
        teacher: Teacher | Sequence[Teacher],
        normalization: Normalization,
        window: Sequence[int] | None,
        new: Sequence[str],
    ) -> Iterator[Case]:
        """The cases as they come; the teacher is asked again about the first that it labelled."""
        asked = False
        for case in cases:
            if not asked and self._was_labelled(case):
                self._spot_check(teacher, case, normalization, window, new)
                asked = True
            yield case

    def _spot_check(
        self,
        teacher: Teacher | Sequence[Teacher],
        case: Case,
        normalization: Normalization,
        window: Sequence[int] | None,
        new: Sequence[str],
    ) -> None:
        """Raise if the teacher answers a case otherwise than before; what is new then goes."""
        answer = teacher_probabilities(teacher, case, normalization, window)
        stored = self.probabilities(case.case_id)
        same = answer.shape == stored.shape
        if not (same and np.allclose(answer, stored, rtol=0, atol=_SAME_PROBABILITY)):
            for case_id in new:
                (self.folder / f"{case_id}.json").unlink()
            raise SoftTargetsError(
                f"{self.folder} holds soft targets made with another teacher: "
                f"{case.case_id} is answered otherwise now. Choose another folder, or "
                "delete this one to make them again."
            )

    def _record(self, case_id: str) -> dict[str, Any]:
        if case_id not in self:
            raise KeyError(
                f"{self.folder} has no soft target for {case_id} (it has {len(self)} cases). "
                "Run SoftTargets.write with this case; it goes on where it stopped."
            )
        return _read_record(self.folder / f"{case_id}.json")


@dataclass(frozen=True)
class _Whole:
    """A file that was found whole: which one, of what size and date, and where its voxels begin."""

    state: tuple[int, int, int]
    offset: int


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def _cannot_see(names: Sequence[str]) -> str:
    return (
        f"Of the teacher {', '.join(names)} it cannot be seen whether its code, the values it "
        "closes over or its files change. Say what it is before the first write, in a folder of "
        'its own: teacher.digest = "v1" (another text whenever its answers change), or its network '
        "or arrays: teacher.digest = network."
    )


def _cannot_tell(folder: Path, names: Sequence[str]) -> str:
    return (
        f"It cannot be checked that {folder} is of this teacher: {', '.join(names)} has no "
        "`digest`, and only its name was compared (in `write` also its answer to one case). If "
        'it changed, delete the folder. With a digest, teacher.digest = "v1", new folders are '
        "checked."
    )


def _does_not_know(folder: Path, classes: Sequence[int]) -> str:
    return (
        f"In {folder} the classes {classes} have probability 0 in every voxel of every case. A "
        "teacher that knew them would not be so sure, so the soft loss of `Distiller` leaves them "
        "out, and labels alone teach them. Give maps of the known classes only, and "
        "`known_classes` to Distiller, to say so yourself."
    )


def _require(split: Split, cases: Iterable[Case]) -> Iterable[Case]:
    """The cases, refused if they are no training cases: all before the first, or as they come."""

    def allowed(some: Sequence[Case]) -> Sequence[Case]:
        split.require([c.case_id for c in some], ("labelled", "unlabelled"), "SoftTargets.write")
        return some

    return allowed(cases) if isinstance(cases, Sequence) else (allowed([c])[0] for c in cases)


def _log_probabilities(
    case: Case,
    teacher: Teacher | Sequence[Teacher],
    normalization: Normalization,
    window: Sequence[int] | None,
) -> tuple[np.ndarray, list[int]]:
    """What is kept of a case: `(D, H, W, C)` float16, and the classes above 0 somewhere."""
    probabilities = teacher_probabilities(teacher, case, normalization, window)
    num_classes = probabilities.shape[-1]
    classes = np.flatnonzero(probabilities.reshape(-1, num_classes).any(axis=0)).tolist()
    if case.regions is None:
        stored = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    else:
        stored = special.logit(np.clip(probabilities, _LEAST_OF_A_REGION, 1 - _LEAST_OF_A_REGION))
    return stored.astype(np.float16, order="C"), classes


class _Labelling:
    """The writing side: which cases are missing, and what is written of each."""

    def __init__(
        self, folder: Path, header: dict[str, Any], teacher: Teacher | Sequence[Teacher]
    ) -> None:
        self.folder, self.header, self.teacher = folder, header, teacher
        self.written: list[str] = []

    def is_missing(self, case: Case) -> bool:
        record_path = self.folder / f"{case.case_id}.json"
        if not (record_path.is_file() and (self.folder / f"{case.case_id}.npy").is_file()):
            return True
        record = _read_record(record_path)
        known = {key: record.get(key) for key in ("image", "teacher")}
        return known != {"teacher": None, **self._made_of(case)}

    def _made_of(self, case: Case) -> dict[str, Any]:
        told = case_digest(self.teacher, case.case_id)
        return {"image": _digests(case)} | ({} if told is None else {"teacher": told})

    def keep(self, case: Case, answer: tuple[np.ndarray, list[int]]) -> None:
        stored, classes = answer
        path, manifest_path = self.folder / f"{case.case_id}.npy", self.folder / "manifest.json"
        if case.case_id == "manifest":
            raise ValueError("A case cannot be called manifest: that is the folder's own file.")
        regions = None if case.regions is None else list(case.regions)
        manifest = {**self.header, "num_classes": stored.shape[-1], "regions": regions}
        if manifest_path.exists():
            _compare_header(self.folder, read_sealed(manifest_path, SoftTargetsError), manifest)
        else:
            known = {key: value for key, value in manifest.items() if value is not None}
            write_json(manifest_path, known, sealed=True)
        with replacing(path) as temporary:
            np.save(temporary, stored, allow_pickle=False)
        record = {**self._made_of(case), "classes": classes, "array": file_digest(path)}
        write_json(path.with_suffix(".json"), record, sealed=True)
        forget(case.image)
        self.written.append(case.case_id)


def _digests(case: Case) -> dict[str, str]:
    """One a sequence, by name."""
    digests = {name: digest(case.image[..., i]) for i, name in enumerate(case.sequences)}
    forget(case.image)
    return digests


def _compare_sequences(folder: Path, labelled: dict[str, str], case: Case) -> None:
    seen = _digests(case)
    unknown = sorted(set(seen) - set(labelled))
    if unknown:
        raise SoftTargetsError(
            f"{folder}: the sequences {unknown} of {case.case_id} were not "
            f"there when it was labelled ({sorted(labelled)} were). Write the soft targets from "
            "cases that hold all sequences, with a teacher that selects its own: a function "
            "case -> kdcore.predict_probabilities(model, case.select(...))."
        )
    changed = [name for name in seen if labelled[name] != seen[name]]
    if changed:
        raise SoftTargetsError(
            f"{folder}: the image of {case.case_id} is not the one that was labelled "
            f"({', '.join(changed)} changed). Label it again with SoftTargets.write."
        )


def _read_record(path: Path) -> dict[str, Any]:
    record = read_sealed(path, SoftTargetsError)
    if (
        not isinstance(record, dict)
        or not isinstance(record.get("image"), dict)
        or "array" not in record
    ):
        raise SoftTargetsError(f"{path} lacks its digests. Delete it and write again.")
    return record


def teacher_probabilities(
    teacher: Teacher | Sequence[Teacher],
    case: Case,
    normalization: Normalization,
    window: Sequence[int] | None = None,
) -> np.ndarray:
    """`(D, H, W, C)` probabilities of one teacher, or the mean of several."""
    if isinstance(teacher, list | tuple):
        maps = [teacher_probabilities(one, case, normalization, window) for one in teacher]
        classes = sorted({one.shape[-1] for one in maps})
        if len(classes) != 1:
            raise ValueError(f"The teachers must know the same classes. Received: {classes}.")
        return np.asarray(np.mean(maps, axis=0))
    if isinstance(teacher, keras.Model):
        return predict_probabilities(teacher, case, normalization, window=window)
    try:
        answer: Any = teacher(case)  # type: ignore[operator]
    except Exception as error:
        if not hasattr(teacher, "state_dict"):
            raise
        raise ValueError(
            "A teacher takes a kdcore.Case and gives its probabilities, (D, H, W, classes). The "
            f"PyTorch module {type(teacher).__name__} does not take one. Write a function of a "
            "case that calls it, and let it tell the module: function.digest = module. It said: "
            f"{str(error).splitlines()[0][:200]}"
        ) from error
    if answer is None:
        raise ValueError(f"{case.case_id}: the teacher gave None. Does it end in a `return`?")
    try:
        probabilities = np.asarray(answer, dtype=np.float32)
    except Exception as error:
        raise ValueError(
            f"{case.case_id}: the teacher gave {type(answer).__name__}, which is no array of "
            f"numbers: {error}."
        ) from error
    return _checked(probabilities, case)


def _checked(probabilities: np.ndarray, case: Case) -> np.ndarray:
    expected = case.image.shape[:3]
    if probabilities.ndim != 4 or probabilities.shape[:3] != expected:
        raise ValueError(
            f"{case.case_id}: the teacher gave shape {probabilities.shape}. Expected "
            f"{(*expected, 'classes')}.{_way_to_shape(probabilities.shape, expected)}"
        )
    regions = case.regions
    if regions is not None and probabilities.shape[-1] != len(regions):
        raise ValueError(
            f"{case.case_id}: the teacher gave {probabilities.shape[-1]} channels. Expected one "
            f"for each of the regions {regions}."
        )
    if regions is None and probabilities.shape[-1] == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=-1)
    low, high = float(probabilities.min()), float(probabilities.max())
    if not (np.isfinite([low, high]).all() and low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(
            f"{case.case_id}: the teacher's values run from {low:.3g} to {high:.3g}; "
            f"probabilities lie in [0, 1]. {_way_out(probabilities)}"
        )
    if regions is not None:
        return np.clip(probabilities, 0, 1)
    total = probabilities.sum(axis=-1, keepdims=True)
    if not np.allclose(total, 1, atol=1e-2):
        raise ValueError(
            f"{case.case_id}: the teacher's probabilities sum to {total.min():.3g} … "
            f"{total.max():.3g} over classes; expected 1. If its channels are regions that may "
            "overlap, say so: kdcore.data.to_regions(case, {name: labels})."
        )
    return probabilities / total


def _way_to_shape(shape: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if len(shape) == 5 and shape[0] == 1:
        return " The first axis is a batch's: pass it without, p[0]."
    if len(shape) == 4 and shape[1:] == expected:
        return " Classes come last: np.moveaxis(p, 0, -1)."
    if shape == expected:
        return " Of one foreground class pass p[..., None]; labels are no probabilities."
    return ""


def _way_out(values: np.ndarray) -> str:
    """How these may become probabilities, by what they look like."""
    if not np.isfinite(values).all():
        return "Say what is so where it is NaN, such as background outside the body."
    total = values.sum(axis=-1)
    for whole, name in ((255, "8-bit numbers"), (100, "percent")):
        if values.min() >= 0 and np.allclose(total, whole, rtol=0.02):
            return f"These look like {name}: divide them by {whole}."
    if values.min() >= 0 and np.allclose(total, total.flat[0], rtol=0.02):
        return f"Those of each voxel sum to {total.flat[0]:.4g}: divide them by that."
    if values.max() <= 0 and np.allclose(np.exp(values).sum(axis=-1), 1, atol=1e-2):
        return "These look like log-probabilities: np.exp of them."
    if np.allclose(total, 1, atol=1e-2):
        return (
            "Each voxel's sum to 1, as after an interpolation that overshoots: resample linearly, "
            "or clip them to [0, 1] and divide by their sum."
        )
    return "Apply softmax to logits first."


def _compare_header(folder: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    changed = [key for key, value in wanted.items() if found.get(key) != value]
    if changed:
        details = "; ".join(f"{key} was {found.get(key)}, is {wanted[key]}" for key in changed)
        raise SoftTargetsError(
            f"{folder} holds soft targets made with another {' and '.join(changed)} "
            f"({details}). Choose another folder, or delete this one to make them again."
        )
