"""What a tissue looks like on a 3 T scanner: signal equations and values from the literature.

Fixed before the first network was trained on simulated scans, and not tuned since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SEQUENCES = ("T1", "T1c", "T2", "FLAIR")


class Tissue(NamedTuple):
    """Mean and standard deviation between subjects: T1 and T2 in ms, proton density (fluid 1)."""

    t1: tuple[float, float]
    t2: tuple[float, float]
    density: tuple[float, float]


TISSUES = {
    # T1 and T2: Stanisz et al. 2005, https://doi.org/10.1002/mrm.20605 (3 T, tissue samples).
    # Water content: https://doi.org/10.3389/fneur.2019.01333
    "white": Tissue((1084, 45), (69, 3), (0.69, 0.017)),
    "grey": Tissue((1820, 114), (99, 7), (0.837, 0.012)),
    # Subarachnoid space at 3 T: 4308.7 ± 146.9 and 1885.5 ± 67.9 ms.
    "fluid": Tissue((4309, 147), (1886, 68), (1.0, 0.0)),
    # Around a tumour the ratios to white matter were 1.35 and 1.7 in mostly low-grade
    # gliomas; around glioblastomas they are higher. 1.6 and 1.9 make oedema close to grey
    # matter on T1, as radiologists describe it. 8 % spread, and densities between grey
    # matter and fluid, are our assumption.
    "oedema": Tissue((1734, 139), (130, 10), (0.86, 0.02)),
    # High-grade tumour at 3 T: T1 1863 ms (de Blank et al. 2019, MR fingerprinting,
    # https://doi.org/10.3171/2018.9.PEDS18413). That method underestimates T2, so T2 is its
    # ratio to the patients' own white matter, 2.4, times white matter's here.
    "core": Tissue((1863, 149), (163, 13), (0.88, 0.02)),
}
CONTRAST_SHORTENS_T1 = (838, 210)
"""ms, in enhancing tumour at 3 T: Nöth et al. 2020, https://doi.org/10.1002/nbm.4242"""

FLIP_ANGLE = np.deg2rad(25)
TIMES = {  # repetition, echo (and inversion) time in ms: usual protocols at 3 T
    "T1": (20.0, 4.0),
    "T1c": (20.0, 4.0),
    "T2": (5000.0, 100.0),
    "FLAIR": (9000.0, 120.0),
}


@dataclass(frozen=True)
class Relaxation:
    """One subject's tissues, each value `(tissues,)` in the order of `TISSUES`.

    Attributes:
        t1: ms.
        t1_contrast: ms, after the contrast agent.
        t2: ms.
        density: Of protons, fluid 1.
    """

    t1: np.ndarray
    t1_contrast: np.ndarray
    t2: np.ndarray
    density: np.ndarray


def draw_relaxation(rng: np.random.Generator) -> Relaxation:
    """A subject's values: normal around the literature's, cut at two standard deviations."""

    def draw(mean: float, sd: float) -> float:
        return mean + sd * float(np.clip(rng.normal(), -2, 2))

    drawn = [[draw(*value) for value in tissue] for tissue in TISSUES.values()]
    t1, t2, density = np.array(drawn).T
    t1_contrast = t1.copy()
    t1_contrast[list(TISSUES).index("core")] -= draw(*CONTRAST_SHORTENS_T1)
    return Relaxation(t1, t1_contrast, t2, density)


def signals(sequence: str, tissue: Relaxation) -> np.ndarray:
    """Signal of each tissue, `(tissues,)`, noise-free and in units of the fluid's full signal.

    T1 and T1c are spoiled gradient echoes, T2 is a spin echo, FLAIR an inversion
    recovery whose inversion time nulls average fluid.

    Reference: Bernstein, King and Zhou 2004, Handbook of MRI Pulse Sequences, chapters 14, 16
    """
    repetition, echo = TIMES[check_sequence(sequence)]
    t1 = tissue.t1_contrast if sequence == "T1c" else tissue.t1
    decay = np.exp(-echo / tissue.t2)
    recovery = np.exp(-repetition / t1)
    if sequence == "T2":
        longitudinal = 1 - recovery
    elif sequence == "FLAIR":
        longitudinal = np.abs(1 - 2 * np.exp(-inversion_time() / t1) + recovery)
    else:
        longitudinal = np.sin(FLIP_ANGLE) * (1 - recovery) / (1 - np.cos(FLIP_ANGLE) * recovery)
    return tissue.density * longitudinal * decay


def inversion_time() -> float:
    """Ms after which average fluid passes zero: T1 (ln 2 − ln(1 + exp(−TR / T1)))."""
    t1 = TISSUES["fluid"].t1[0]
    return float(t1 * (np.log(2) - np.log1p(np.exp(-TIMES["FLAIR"][0] / t1))))


def magnitude(signal: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Signal with the noise of both receiver channels, then its size: Rician; Rayleigh in air.

    Reference: Gudbjartsson and Patz 1995, https://doi.org/10.1002/mrm.1910340618
    """
    real, imaginary = channels = rng.normal(size=(2, *signal.shape))
    channels *= sigma
    real += signal
    return np.hypot(real, imaginary, out=real)


def bias_field(shape: tuple[int, ...], strength: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth factor between 1 − strength and 1 + strength over the volume.

    Cosines of at most one period an axis. 0.1 and 0.2 are BrainWeb's 20 % and 40 %: Collins
    et al. 1998, https://doi.org/10.1109/42.712135
    """
    field = rng.normal(size=(3, 3, 3))
    for size in shape:
        waves = np.cos(np.pi * np.outer(np.arange(size) + 0.5, np.arange(3)) / size)
        field = np.tensordot(field, waves, (0, 1))
    field -= field.min()
    return 1 - strength + 2 * strength * field / field.max()


def check_sequences(sequences: Sequence[str]) -> tuple[str, ...]:
    """`sequences`, if they are different ones of `SEQUENCES`."""
    for sequence in sequences:
        check_sequence(sequence)
    if not sequences or len(set(sequences)) != len(sequences):
        raise ValueError(f"sequences must be different names. Received: {tuple(sequences)}.")
    return tuple(sequences)


def check_sequence(sequence: str) -> str:
    """`sequence`, if it is one of `SEQUENCES`."""
    if sequence not in SEQUENCES:
        raise ValueError(f"sequence must be one of {SEQUENCES}. Received: {sequence!r}.")
    return sequence
