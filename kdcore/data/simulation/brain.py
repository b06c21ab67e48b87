"""Simulated multi-sequence brain MRI with and without a tumour: no download, no patient.

Anatomy: the MNI152 tissue maps of nilearn, bent by a random smooth invertible map.
Physics: `mri`. A subject is a function of `(simulation, seed, index)` alone.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from tqdm import tqdm

from kdcore._files import digest, file_digest, open_array, read_json, replacing, write_json
from kdcore.data.cases import Case
from kdcore.data.download import cache_folder
from kdcore.data.simulation import anatomy, mri

VERSION = 1  # to be raised when the same parameters give other scans
LABELS = {"1": "oedema", "2": "tumour core"}
REGIONS = {"whole tumour": (1, 2)}
"""Labels that are scored together, as in the BraTS challenge; its tumour core is label 2."""
LARGEST_CM3 = 250.0


@dataclass(frozen=True)
class Simulation:
    """What is drawn, and how widely. The values are from the literature, see `mri`.

    Attributes:
        spacing_mm: Size of the cubic voxels, 1 to 6 mm; the anatomy does not change with it.
        snr: Mean white-matter signal over the noise of one receiver channel.
        bias: Range of the bias field's strength; 0.1 … 0.2 is 20 % … 40 %.
        healthy_share: Share of subjects without a lesion.
        core_cm3, oedema_cm3: Smallest, median and largest volume; log-normal between.
            Enhancing glioblastoma: median 18.2, quartiles 8.2 and 41.7 cm³ (Leu et al. 2018,
            https://doi.org/10.1016/j.wneu.2018.04.067); core and oedema are larger.
        displacement_mm: Root mean square of the elastic deformation's velocity.
        scale: Standard deviation of the head's size along each axis.
        mass_effect_mm: Range of the largest shift of tissue around a core.

    Examples:
        >>> import kdcore
        >>> coarse = kdcore.Simulation(spacing_mm=6.0, healthy_share=0.0)
        >>> [case] = kdcore.simulate_cases(1, seed=0, simulation=coarse)
        >>> case.spacing_mm
        (6.0, 6.0, 6.0)
    """

    spacing_mm: float = 2.0
    snr: float = 25.0
    bias: tuple[float, float] = (0.1, 0.2)
    healthy_share: float = 0.1
    core_cm3: tuple[float, float, float] = (8.0, 25.0, 60.0)
    oedema_cm3: tuple[float, float, float] = (15.0, 45.0, 110.0)
    displacement_mm: float = 3.0
    scale: float = 0.03
    mass_effect_mm: tuple[float, float] = (1.0, 4.0)

    def __post_init__(self) -> None:
        if not 1 <= self.spacing_mm <= 6:
            raise ValueError(f"spacing_mm must lie in 1 … 6. Received: {self.spacing_mm}.")
        if not self.snr > 0:
            raise ValueError(f"snr must be > 0. Received: {self.snr}.")
        if not 0 <= self.healthy_share <= 1:
            raise ValueError(f"healthy_share must lie in [0, 1]. Received: {self.healthy_share}.")
        if not 0 <= self.bias[0] <= self.bias[1] < 1:
            raise ValueError(f"bias must be a range in [0, 1). Received: {self.bias}.")
        for name in ("core_cm3", "oedema_cm3"):
            low, median, high = getattr(self, name)
            if not 0 < low <= median <= high or self.core_cm3[2] + self.oedema_cm3[2] > LARGEST_CM3:
                raise ValueError(
                    f"{name} must be (smallest, median, largest) > 0, and the largest core and "
                    f"oedema at most {LARGEST_CM3:.0f} cm³ together, or they do not fit a brain. "
                    f"Received: {getattr(self, name)}."
                )
        radius = (3e3 * self.core_cm3[0] / (4 * np.pi)) ** (1 / 3)
        if not 0 <= self.mass_effect_mm[0] <= self.mass_effect_mm[1] < 0.6 * radius:
            raise ValueError(
                f"mass_effect_mm must be a range below {0.6 * radius:.1f}, 0.6 of the smallest "
                f"core's radius, or tissue folds. Received: {self.mass_effect_mm}."
            )
        if not (0 <= self.displacement_mm <= 6 and 0 <= self.scale <= 0.1):
            raise ValueError(
                "displacement_mm must lie in [0, 6] and scale in [0, 0.1]. Received: "
                f"{self.displacement_mm} and {self.scale}."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(D, H, W)` of the scans."""
        d, h, w = (round(size / self.spacing_mm) for size in anatomy.FIELD_OF_VIEW_MM)
        return d, h, w


def simulate_cases(
    n: int,
    seed: int = 0,
    sequences: Sequence[str] = mri.SEQUENCES,
    *,
    simulation: Simulation | None = None,
    folder: str | Path | None = None,
) -> list[Case]:
    """Simulated subjects 0 … n − 1 of a seed; made once, then read from the cache.

    Args:
        n: Number of subjects. Subject i is the same whatever n is.
        seed: Another seed, other subjects.
        sequences: Some of "T1", "T1c", "T2", "FLAIR".
        simulation: Its parameters.
        folder: Where they are kept; by default the user's cache (`KDCORE_CACHE`).

    Returns:
        Cases with `image` (D, H, W, S) float32, whole numbers in arbitrary units as a
        scanner writes them, memory-mapped if all sequences are asked for; `mask` 0
        background, 1 oedema, 2 tumour core.

    Raises:
        ValueError: For n < 0, seed < 0, or a sequence that is not simulated.

    Examples:
        >>> import kdcore
        >>> cases = kdcore.simulate_cases(2, seed=0, simulation=kdcore.Simulation(spacing_mm=6.0))
        >>> cases[0].sequences, cases[0].image.shape[:3] == cases[0].mask.shape
        (('T1', 'T1c', 'T2', 'FLAIR'), True)
    """
    if n < 0 or seed < 0:
        raise ValueError(f"n and seed must be ≥ 0. Received: n={n}, seed={seed}.")
    sequences = mri.check_sequences(sequences)
    simulation = simulation or Simulation()
    root = Path(folder) if folder is not None else cache_folder() / "simulated"
    tag = digest(VERSION, asdict(simulation), mri_parameters())[:12]
    root = root / f"{simulation.spacing_mm:g}mm-{tag}" / f"seed{seed}"
    missing = [index for index in range(n) if not _whole(root / f"{index:05d}")]
    if missing:
        anatomy.template(simulation.spacing_mm)  # once, before the threads need it

        def make(index: int) -> None:
            _write(root / f"{index:05d}", *simulate_case(simulation, seed, index))

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            made = pool.map(make, missing)
            list(tqdm(made, "simulating", len(missing), unit="scan", disable=len(missing) < 4))
    cases = [_read(root / f"{index:05d}", seed, index, simulation) for index in range(n)]
    return [case.select(sequences) for case in cases]


def mri_parameters() -> list[object]:
    """What `mri` fixes, for digests."""
    return [mri.TISSUES, mri.CONTRAST_SHORTENS_T1, float(mri.FLIP_ANGLE), mri.TIMES]


def simulate_case(simulation: Simulation, seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """One subject: image `(D, H, W, 4)` float32 and mask `(D, H, W)` uint8."""
    streams = np.random.SeedSequence([seed, index]).spawn(2 + len(mri.SEQUENCES))
    rngs = [np.random.default_rng(stream) for stream in streams]
    template_mm, distance, volumes = draw_anatomy(simulation, rngs[0])
    template_mm = anatomy.upsample(template_mm, simulation.shape)
    shares = np.zeros((len(mri.TISSUES), *simulation.shape))
    shares[:3] = anatomy.tissues(template_mm, simulation.spacing_mm)
    del template_mm
    mask = np.zeros(simulation.shape, np.uint8)
    if volumes is not None:
        mask = draw_lesion(simulation, shares, distance, volumes)
        add_lesion(shares, mask, simulation.spacing_mm)
    relaxation = mri.draw_relaxation(rngs[1])
    image = np.empty((*simulation.shape, len(mri.SEQUENCES)), np.float32)
    for channel, (sequence, rng) in enumerate(zip(mri.SEQUENCES, rngs[2:], strict=True)):
        image[..., channel] = acquire(sequence, shares, relaxation, simulation, rng)
    return image, mask


def draw_anatomy(
    simulation: Simulation, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, tuple[float, float] | None]:
    """A subject's head, on the nodes of `anatomy`.

    Returns:
        Template position of each node, `(3, *NODES)` in mm; its distance from the lesion's
        centre in mm, made uneven so that the lesion is; volumes of core and oedema in cm³,
        or None for a subject without a lesion.
    """
    scale = np.exp(simulation.scale * rng.normal(size=3))
    turn = anatomy.affine(1 / scale, np.deg2rad(3) * rng.normal(size=3))
    elastic = anatomy.exponential(simulation.displacement_mm * anatomy.smooth_noise(rng, 15, 3))
    healthy = rng.random() < simulation.healthy_share
    core, oedema = (_log_normal(rng, *v) for v in (simulation.core_cm3, simulation.oedema_cm3))
    shift = rng.uniform(*simulation.mass_effect_mm)
    unevenness = anatomy.smooth_noise(rng, 8, 1)[0]
    x = anatomy.nodes()

    def to_template(x: np.ndarray) -> np.ndarray:
        return np.tensordot(turn, x + anatomy.sample_nodes(elastic, x), 1)

    if healthy:
        return to_template(x), np.zeros(anatomy.NODES), None
    radius = (3e3 * core / (4 * np.pi)) ** (1 / 3)
    center = _draw_center(x, to_template(x), rng)
    distance = np.sqrt(np.sum((x - center.reshape(3, 1, 1, 1)) ** 2, axis=0))
    pushed = to_template(anatomy.push(x, center, radius, shift))
    return pushed, distance + 0.2 * radius * unevenness, (core, oedema)


def draw_lesion(
    simulation: Simulation,
    shares: np.ndarray,
    distance: np.ndarray,
    volumes_cm3: tuple[float, float],
) -> np.ndarray:
    """Mask of core and oedema with just these volumes.

    The core is nearest to the centre; oedema spreads around it, farther along white matter
    than through grey. Neither grows into fluid.
    """
    distance = anatomy.upsample(distance, simulation.shape)
    tissue = shares[:2].sum(axis=0) > 0.5
    mask = np.zeros(simulation.shape, np.uint8)
    counts = [round(1e3 * v / simulation.spacing_mm**3) for v in volumes_cm3]
    _nearest(mask, np.where(tissue, distance, np.inf), counts[0], label=2)
    farther = distance * (1.5 - 0.5 * shares[0])
    _nearest(mask, np.where(tissue & (mask == 0), farther, np.inf), counts[1], label=1)
    return mask


def add_lesion(shares: np.ndarray, mask: np.ndarray, spacing_mm: float) -> None:
    """Make room for the lesion in the shares of all `TISSUES`, in place.

    Its borders are as soft as its voxels' mixture: the core's is blurred by 1 mm, the
    oedema's outer one, which is diffuse, by 2 mm.
    """
    whole = ndimage.gaussian_filter((mask > 0).astype(float), 2 / spacing_mm)
    core = ndimage.gaussian_filter((mask == 2).astype(float), 1 / spacing_mm)
    np.maximum(whole, core, out=whole)
    whole *= shares[:3].sum(axis=0)
    np.minimum(core, whole, out=core)
    shares[:3] *= 1 - whole
    shares[3], shares[4] = whole - core, core


def acquire(
    sequence: str,
    shares: np.ndarray,
    relaxation: mri.Relaxation,
    simulation: Simulation,
    rng: np.random.Generator,
) -> np.ndarray:
    """One sequence's scan, `(D, H, W)` float32, whole numbers in arbitrary units."""
    tissue = mri.signals(sequence, relaxation)
    gain = rng.uniform(100, 400) / tissue[0]  # MRI has no unit
    signal = np.tensordot(gain * tissue, shares, 1)
    signal *= mri.bias_field(simulation.shape, rng.uniform(*simulation.bias), rng)
    signal = mri.magnitude(signal, gain * tissue[0] / simulation.snr, rng)
    # Whole numbers also hide the last bits in which processors differ.
    return np.rint(signal, out=signal).astype(np.float32)


def _draw_center(x: np.ndarray, template_mm: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A node deep in the white matter of the cerebrum."""
    deep = (anatomy.tissues(template_mm, 2.0)[0] > 0.8) & (template_mm[0] > -15)
    candidates = x[:, deep]
    return candidates[:, rng.integers(candidates.shape[1])]


def _log_normal(rng: np.random.Generator, low: float, median: float, high: float) -> float:
    """Log-normal with a log-sd of 0.5 around the median, cut to [low, high]."""
    return float(np.clip(median * np.exp(0.5 * rng.normal()), low, high))


def _nearest(mask: np.ndarray, distance: np.ndarray, count: int, label: int) -> None:
    """Give the `count` voxels of least distance the label."""
    mask.flat[np.argpartition(distance, count, axis=None)[:count]] = label


def _write(folder: Path, image: np.ndarray, mask: np.ndarray) -> None:
    for name, array in (("image", image), ("mask", mask)):
        with replacing(folder / f"{name}.npy") as temporary:
            np.save(temporary, array, allow_pickle=False)
    digests = {name: file_digest(folder / f"{name}.npy") for name in ("image", "mask")}
    write_json(folder / "digests.json", {**digests, "subject": folder.parts[-3:]})


def _whole(folder: Path) -> bool:
    """Whether a subject was written to the end and is as it was written; else it is made anew."""
    own = {"subject": list(folder.parts[-3:])}  # not another subject's, moved here
    try:
        digests = read_json(folder / "digests.json")
        files = {name: file_digest(folder / f"{name}.npy") for name in ("image", "mask")}
        return {**own, **digests} == {**own, **files}
    except (OSError, ValueError, TypeError):
        return False


def _read(folder: Path, seed: int, index: int, simulation: Simulation) -> Case:
    return Case(
        f"sim{seed}-{index:05d}",
        open_array(folder / "image.npy"),
        open_array(folder / "mask.npy"),
        (simulation.spacing_mm,) * 3,
        mri.SEQUENCES,
        _scanner_coordinates(simulation),
    )


def _scanner_coordinates(simulation: Simulation) -> np.ndarray:
    """`(4, 4)`: (D, H, W) index -> (right, anterior, superior) in mm, middle of the view at 0."""
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2] = np.array([1, -1, 1]) * simulation.spacing_mm
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(simulation.shape) - 1) / 2)
    affine[3, 3] = 1
    return affine
