"""Cases (+ soft targets) -> slices or patches -> augmented batches for `fit`."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from kdcore._files import digest
from kdcore.augmentation import Augmentation
from kdcore.data.cases import Case, forget, labels_in
from kdcore.losses import IGNORE, check_share
from kdcore.normalization import Normalization, describe_normalization, prepare
from kdcore.soft_targets import SoftTargets, SoftTargetsError


class Batches(keras.utils.PyDataset):
    """Batches of slices (2-D) or patches (3-D) from whole cases.

    Each is `(x, y)`: x `(B, *shape, S)` float32, y the int32 mask `(B, *shape)`, or with soft
    targets `{"mask": ..., "soft_targets": (B, *shape, C)}`. Of cases with `regions` the mask is
    `(B, *shape, R)`. With `class_weight` it is `(x, y, weights)`. Soft targets are
    log-probabilities; where augmentation has moved them, up to a constant a voxel, which a softmax
    does not see.

    Image, mask and soft target are always cut, padded and moved together. What a batch
    holds depends on `(seed, epoch, index)` alone, so training can go on after an
    interrupt with the very batches it would have seen. A second `fit` goes on with the next
    epochs; `batches.epoch = 0` begins anew.

    Args:
        cases: Cases; those with `mask=None` are unlabelled and get a mask of −1.
        shape: `(height, width)` cuts every slice along the first axis, `(depth, height,
            width)` one patch a case. Smaller scans are padded with their border's values;
            of larger ones a random part is taken (the middle, if not shuffled).
        batch_size: Samples a batch.
        soft_targets: Opened `SoftTargets` that hold every case, or None.
        normalization: Of the images: a method of `normalize`, a fitted function, or None.
        augmentation: An `Augmentation`, or None.
        labelled_share: Share of each batch drawn from the labelled cases, if there are
            labelled and unlabelled ones. None draws all alike.
        foreground_share: Share of the samples, labelled and unlabelled ones alike, that are drawn
            to hold foreground: by the mask, or where there is none by the soft target's most
            probable class. Of the labels in the slice (3-D: in the case) one is drawn, of its
            voxels one, and the part taken holds it; augmentation may still move it out. The other
            samples are drawn as without, so that more than this share holds foreground.
            None or 0 looks for none. The share is exact over many batches, not in each.
        class_weight: `{label: weight}` makes some classes count more or less in the loss; those
            left out weigh 1. A voxel without a label weighs as its soft target's most probable
            class, or 1. Weights change the balance of a loss, so tune them for student and
            baseline alike.
        num_batches: Batches an epoch; None takes as many as one pass over the samples
            needs.
        shuffle: Draw in random order. Without it every sample comes once, in order, and
            neither share matters.
        seed: Of order and augmentation.
        workers: Threads or processes that make batches while the network learns, as in
            `keras.utils.PyDataset`. The batches are the same.
        use_multiprocessing: Processes instead of threads: worth it where augmentation takes longer
            than a step. Each holds a copy of what it is given.
        max_queue_size: The most batches that wait.

    Raises:
        ValueError: If there are no cases, they differ in sequences, an argument is
            impossible, foreground is asked for of a case with neither mask nor soft target, or
            classes are weighted where there are regions.
        KeyError: If the soft targets lack a case.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> batches = kdcore.Batches(cases, shape=(32, 28), batch_size=4)
        >>> x, mask = batches[0]
        >>> x.shape, mask.shape
        ((4, 32, 28, 4), (4, 32, 28))

    Reference: `foreground_share` after nnU-Net, Isensee et al. 2021,
    https://doi.org/10.1038/s41592-020-01008-z
    """

    def __init__(
        self,
        cases: Sequence[Case],
        shape: Sequence[int],
        batch_size: int = 16,
        *,
        soft_targets: SoftTargets | None = None,
        normalization: Normalization = "percentile",
        augmentation: Augmentation | None = None,
        labelled_share: float | None = None,
        foreground_share: float | None = None,
        class_weight: Mapping[int, float] | None = None,
        num_batches: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        super().__init__(workers, use_multiprocessing, max_queue_size)
        _check(cases, shape, batch_size, labelled_share, num_batches)
        if foreground_share is not None:
            check_share("foreground_share", foreground_share)
        if class_weight is not None:
            _check_class_weight(class_weight, cases[0].regions)
        self.shape, self.batch_size = tuple(shape), batch_size
        self.augmentation, self.shuffle, self.seed = augmentation, shuffle, seed
        self.epoch = 0
        self._settings = {
            "shape": list(shape),
            "batch_size": batch_size,
            "soft_targets": None if soft_targets is None else soft_targets.digest(),
            "normalization": describe_normalization(normalization),
            "augmentation": None if augmentation is None else repr(augmentation),
            "labelled_share": labelled_share,
            "foreground_share": foreground_share,
            "num_batches": num_batches,
            "shuffle": shuffle,
            "seed": seed,
            **({} if class_weight is None else {"class_weight": _sorted(class_weight)}),
            **({} if cases[0].regions is None else {"regions": list(cases[0].regions)}),
        }
        self.case_ids = tuple(case.case_id for case in cases)
        self.labelled_ids = tuple(case.case_id for case in cases if case.mask is not None)
        self._sources = [_Source(case, normalization) for case in cases]
        self.regions = cases[0].regions
        self.labels, self._mistake = _labels_of(cases)
        if len(self.shape) == 2:
            _tell_of_wrong_slices(cases, self.shape)
        self._soft_targets = soft_targets
        if soft_targets is not None:
            soft_targets.check_images(cases, normalization)
            _check_regions(soft_targets, self.regions)
            for case in cases:
                _check_soft_target(soft_targets, case)
        self._pools = self._make_pools(labelled_share)
        self._class_weight = class_weight
        self._foreground_share = foreground_share or 0.0
        self._counts = self._count_labels() if self._foreground_share and shuffle else []
        self._showing = [self._with_foreground(samples) for samples, _ in self._pools]
        self._orders: dict[tuple[int, ...], np.ndarray] = {}
        total = sum(len(samples) for samples, _ in self._pools)
        self._length = -(-total // batch_size) if num_batches is None else num_batches

    @property
    def num_batches(self) -> int:
        return self._length

    def __len__(self) -> int:
        return self._length

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one sample's image, `(*shape, S)`."""
        return (*self.shape, self._sources[0].image.shape[-1])

    @property
    def known_classes(self) -> tuple[int, ...] | None:
        """Of the soft targets, where these hold classes that the teacher does not know."""
        if self._soft_targets is None:
            return None
        known = self._soft_targets.known_classes
        return None if len(known) == self._soft_targets.num_classes else known

    def describe(self) -> dict[str, Any]:
        """What decides the batches, as JSON values; the cases by a digest of all their voxels."""
        return {**self._settings, "cases": digest([source.digest() for source in self._sources])}

    def targets(self) -> Any:
        """The targets of the first batch, for whoever checks them before training."""
        return self[0][1]

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        if not 0 <= index < self._length:
            raise IndexError(f"Batch {index} of {self._length}.")
        if self._mistake:
            raise ValueError(self._mistake)
        samples = self._samples(index)
        rng = np.random.default_rng([self.seed, self.epoch, index])
        x, mask, soft = self._empty(len(samples))
        for row, (case, plane, sought) in enumerate(samples):
            source = self._sources[case]
            voxel = self._foreground_voxel(case, plane, rng) if sought else None
            where = self._where(source.shape, plane, rng, voxel)
            _voxels(x[row])[:] = source.scale(source.image.take(where, axis=0))
            if source.mask is not None:
                mask[row].flat = source.mask.take(where, axis=0)
            if soft is not None and self._soft_targets is not None:
                _voxels(soft[row])[:] = self._soft_targets.voxels(source.case_id, where)
            source.forget()
        y = {"mask": mask} if soft is None else {"mask": mask, "soft_targets": soft}
        if self.augmentation is not None:
            self.augmentation(rng, x, *y.values())
        weights = () if self._class_weight is None else (self._weights(mask, soft),)
        return x, y if "soft_targets" in y else mask, *weights

    def _weights(self, mask: np.ndarray, soft: np.ndarray | None) -> np.ndarray:
        """`(B, *shape)`: the weight of each voxel's class."""
        labels = mask if soft is None else np.where(mask == IGNORE, soft.argmax(axis=-1), mask)
        weights = np.ones(labels.shape, np.float32)
        for label, weight in (self._class_weight or {}).items():
            weights[labels == label] = weight
        return weights

    def _empty(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        first = self._sources[0]
        x = np.empty((count, *self.shape, first.image.shape[-1]), np.float32)
        channels = () if self.regions is None else (len(self.regions),)
        mask = np.full((count, *self.shape, *channels), IGNORE, np.int32)
        if self._soft_targets is None:
            return x, mask, None
        classes = self._soft_targets.num_classes
        return x, mask, np.empty((count, *self.shape, classes), np.float32)

    def _make_pools(self, labelled_share: float | None) -> list[tuple[np.ndarray, int]]:
        """[(samples as (case, slice), samples of it a batch)]."""
        flat = len(self.shape) == 2
        samples = np.array(
            [
                (case, plane)
                for case, source in enumerate(self._sources)
                for plane in (range(source.shape[0]) if flat else [0])
            ]
        )
        labelled = np.array([self._sources[case].mask is not None for case, _ in samples])
        alike = labelled.all() or not labelled.any() or not self.shuffle
        if labelled_share is None or alike:
            return [(samples, self.batch_size)]
        count = round(labelled_share * self.batch_size)
        if labelled_share and not count:
            raise ValueError(
                f"labelled_share={labelled_share} of batch_size={self.batch_size} is no sample at "
                "all. Raise one of them."
            )
        if labelled_share < 1 and count == self.batch_size:
            raise ValueError(
                f"labelled_share={labelled_share} of batch_size={self.batch_size} leaves no sample "
                "to the unlabelled cases. Raise batch_size, or lower labelled_share."
            )
        pools = [(samples[labelled], count), (samples[~labelled], self.batch_size - count)]
        return [(pool, count) for pool, count in pools if count]

    def _samples(self, index: int) -> list[tuple[int, int, bool]]:
        """(case, slice, whether its foreground is sought) of a batch."""
        if not self.shuffle:
            samples = self._pools[0][0]
            start = index % -(-len(samples) // self.batch_size) * self.batch_size
            return [(*sample, False) for sample in samples[start : start + self.batch_size]]
        step = self.epoch * self._length + index
        return [
            self._drawn(pool, step * count + i)
            for pool, (_, count) in enumerate(self._pools)
            for i in range(count)
        ]

    def _drawn(self, pool: int, draw: int) -> tuple[int, int, bool]:
        """The draw-th sample of a pool; of its first n, share · n are sought for foreground."""
        samples, showing = self._pools[pool][0], self._showing[pool]
        share = self._foreground_share if len(showing) else 0.0
        before = int(share * draw)
        sought = int(share * (draw + 1)) > before
        if sought:
            case, plane = showing[self._position((pool, 1), len(showing), before)]
        else:
            case, plane = samples[self._position((pool,), len(samples), draw - before)]
        return case, plane, sought

    def _position(self, stream: tuple[int, ...], size: int, draw: int) -> int:
        """The draw-th place of an endless series of shuffled passes over a pool."""
        key = (*stream, draw // size)
        if key not in self._orders:
            order = np.random.default_rng([self.seed, stream[0], key[-1], *stream[1:]])
            recent = {
                k: v for k, v in self._orders.items() if k[:-1] != stream or k[-1] >= key[-1] - 1
            }
            self._orders = {**recent, key: order.permutation(size)}
        return int(self._orders[key][draw % size])

    def _count_labels(self) -> list[np.ndarray]:
        """Of each case `(D, labels)`: voxels of every foreground label in every slice."""
        counts = []
        for case, source in enumerate(self._sources):
            every = [self._labels(case, plane) for plane in range(source.shape[0])]
            if self.regions is not None:
                counts.append(np.stack([inside.sum(axis=0) for inside in every]))
            else:
                planes = [np.bincount(labels) for labels in every]
                longest = max(map(len, planes))
                counts.append(np.stack([np.pad(p, (0, longest - len(p))) for p in planes])[:, 1:])
            source.forget()
        return counts

    def _with_foreground(self, samples: np.ndarray) -> np.ndarray:
        """Those of a pool's samples that show some."""
        if not self._counts:
            return samples[:0]
        flat = len(self.shape) == 2
        found = [bool((self._counts[c][p] if flat else self._counts[c]).any()) for c, p in samples]
        if not any(found):
            warnings.warn(
                f"foreground_share={self._foreground_share} does nothing for {len(found)} of the "
                "samples, since none of them holds any label or, without a mask, is given any by "
                "the soft targets. Has the teacher learned something?",
                stacklevel=3,
            )
        return samples[found]

    def _labels(self, case: int, plane: int) -> np.ndarray:
        """`(H · W,)` of the mask, or the soft target's most probable ones; `(H · W, R)` regions."""
        source = self._sources[case]
        area = source.shape[1] * source.shape[2]
        if source.mask is not None:
            return np.maximum(source.mask[plane * area : (plane + 1) * area], 0)
        if self._soft_targets is None:
            raise ValueError(
                f"foreground_share needs to know where it is, but {source.case_id} has neither a "
                "mask nor a soft target. Pass soft_targets, or leave the share out."
            )
        where = np.arange(plane * area, (plane + 1) * area)
        told = self._soft_targets.voxels(source.case_id, where)
        return told.argmax(axis=-1) if self.regions is None else (told > 0).astype(int)

    def _foreground_voxel(
        self, case: int, plane: int, rng: np.random.Generator
    ) -> tuple[int, int, int]:
        """Index of a voxel of a label that is there; each label is as likely, if rare or not."""
        counts = self._counts[case]
        there = counts[plane] if len(self.shape) == 2 else counts.sum(axis=0)
        label = rng.choice(np.flatnonzero(there))
        if len(self.shape) == 3:
            plane = int(rng.choice(len(counts), p=counts[:, label] / there[label]))
        labels = self._labels(case, plane)
        inside = labels == label + 1 if self.regions is None else labels[:, label] > 0
        place = rng.choice(np.flatnonzero(inside))
        row, column = divmod(int(place), self._sources[case].shape[2])
        return plane, row, column

    def _where(
        self,
        size: Sequence[int],
        plane: int,
        rng: np.random.Generator,
        voxel: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Flat index of each voxel of a crop of a case, or of a slice of it; it holds `voxel`.

        Where it is smaller than the shape it is padded around the middle: border indices repeat.
        """
        rank = len(self.shape)
        where = np.array(plane if rank == 2 else 0)
        for axis, (have, want) in enumerate(zip(size[-rank:], self.shape, strict=True)):
            spare, start = have - want, (have - want) // 2
            if spare > 0 and self.shuffle:
                at = None if voxel is None else voxel[axis - rank]
                low, high = (0, spare) if at is None else (max(0, at - want + 1), min(spare, at))
                start = int(rng.integers(low, high + 1))
            line = np.clip(np.arange(start, start + want), 0, have - 1)
            where = where[..., None] * have + line
        return where.ravel()


class _Source:
    """One case's arrays, on disk or in memory, as rows of voxels."""

    def __init__(self, case: Case, normalization: Normalization) -> None:
        image, self.scale = prepare(case.image, normalization)
        self.case_id, self._on_disk = case.case_id, (image, case.mask)
        self.shape = image.shape[:3]
        self.image = _voxels(np.asarray(image))
        self.mask = None if case.mask is None else _rows(np.asarray(case.mask))
        self.forget()

    def digest(self) -> str:
        """Of image and mask."""
        image, mask = self._on_disk
        found = digest(self.case_id, np.asarray(image), mask)
        self.forget()
        return found

    def forget(self) -> None:
        forget(*self._on_disk)


def _labels_of(cases: Sequence[Case]) -> tuple[tuple[int, ...], str]:
    """All labels of the masks but −1, and what is wrong with them; gaps are told at once."""
    labels: set[int] = set()
    where: dict[int, str] = {}
    for case in cases:
        if case.mask is not None:
            found = set(labels_in(case.mask)) - {IGNORE}
            where |= dict.fromkeys(found - labels, case.case_id)
            labels |= found
            forget(case.mask)
    mistake = ""
    if 255 in labels:
        mistake = (
            f"{where[255]}: the mask holds the label 255 (labels found: {sorted(labels)}), which "
            "usually marks voxels that do not count. Then say so: "
            "kdcore.data.relabel(case, {255: -1})."
        )
    highest = max(labels, default=0)
    if not mistake and highest >= 2 * max(2, len(labels)):
        warnings.warn(
            f"The masks hold the labels {sorted(labels)}. A network needs {highest + 1} classes "
            f"for them, since {where[highest]} holds {highest}; kdcore.data.relabel(case, "
            "{old: new}) numbers them without gaps.",
            stacklevel=3,
        )
    return tuple(sorted(labels)), mistake


def _tell_of_wrong_slices(cases: Sequence[Case], shape: Sequence[int]) -> None:
    """In most files the slices that a scanner made lie along the last axis, not the first."""
    for case in cases:
        size = case.image.shape[1:3]
        thickest = max(case.spacing_mm[1:]) if case.has_spacing else 0.0
        narrow = min(size[0] / shape[0], size[1] / shape[1]) < 0.25
        if narrow or thickest >= 2 * case.spacing_mm[0]:
            shown = min(size[0], shape[0]) * min(size[1], shape[1])
            padding = 1 - shown / (shape[0] * shape[1])
            warnings.warn(
                f"{case.case_id}: slices along its first axis are of {size} voxels "
                f"({padding:.0%} of a sample of {tuple(shape)} is padding), with voxels of "
                f"{tuple(round(edge, 2) for edge in case.spacing_mm)} mm. If its slices lie along "
                "another axis, kdcore.reorient(case) puts axial ones first.",
                stacklevel=3,
            )
            return


def _voxels(array: np.ndarray) -> np.ndarray:
    """(..., C) -> (voxels, C)."""
    return array.reshape(-1, array.shape[-1])


def _rows(mask: np.ndarray) -> np.ndarray:
    """(D, H, W) -> (voxels,); of regions (D, H, W, R) -> (voxels, R)."""
    return mask.ravel() if mask.ndim == 3 else _voxels(mask)


def _sorted(weights: Mapping[int, float]) -> list[list[float]]:
    """`[[label, weight], ...]` as JSON has it, in whatever order and types they were given."""
    return [[int(label), float(weight)] for label, weight in sorted(weights.items())]


def _check_class_weight(weights: Mapping[int, float], regions: tuple[str, ...] | None) -> None:
    if regions is not None:
        raise ValueError(
            f"class_weight weighs a voxel by its one class, but these cases have the regions "
            f"{regions}, of which a voxel may lie in several. Weigh voxels by sample_weight of "
            "fit, or leave class_weight out."
        )
    wrong = {
        label: weight
        for label, weight in weights.items()
        if label != int(label) or label < 0 or not 0 <= weight < np.inf
    }
    if wrong or not any(weights.values()):
        raise ValueError(
            "class_weight must be {label ≥ 0: finite weight ≥ 0}, not all of them 0. "
            f"Received: {dict(weights)}."
        )


def _check_regions(soft_targets: SoftTargets, regions: tuple[str, ...] | None) -> None:
    if soft_targets.regions != regions:
        raise SoftTargetsError(
            f"{soft_targets.folder} holds soft targets of the regions {soft_targets.regions}, the "
            f"cases have {regions} (None: one label a voxel). Pass cases as those that were "
            "labelled, or write the soft targets again from these in another folder."
        )


def _check_soft_target(soft_targets: SoftTargets, case: Case) -> None:
    """It is whole, and of the case's size."""
    shape, expected = soft_targets[case.case_id].shape[:3], case.image.shape[:3]
    if shape != expected:
        raise SoftTargetsError(
            f"{soft_targets.folder / case.case_id}.npy has shape {shape}, the scan {expected}. "
            "Delete it and run SoftTargets.write again."
        )


def _check(
    cases: Sequence[Case],
    shape: Sequence[int],
    batch_size: int,
    share: float | None,
    num_batches: int | None,
) -> None:
    if num_batches is not None and num_batches < 1:
        raise ValueError(f"num_batches must be ≥ 1. Received: {num_batches}.")
    if not cases:
        raise ValueError("Batches needs at least one case.")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(
            f"shape must be (height, width) or (depth, height, width). Received: {shape}."
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be ≥ 1. Received: {batch_size}.")
    if share is not None:
        check_share("labelled_share", share)
    sequences = {case.sequences for case in cases}
    if len(sequences) > 1:
        raise ValueError(f"The cases have different sequences: {sorted(sequences)}.")
    regions = {case.regions for case in cases}
    if len(regions) > 1:
        raise ValueError(
            f"The cases have different regions: {sorted(map(str, regions))} (None: one label a "
            "voxel). Give all of them the same with kdcore.data.to_regions."
        )
