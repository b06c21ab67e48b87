"""A task: data, what its labels are called, and what is scored beside them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdcore.data.brats import read_brats
from kdcore.data.cases import Case
from kdcore.data.download import hippocampus_folder
from kdcore.data.msd import read_msd
from kdcore.data.simulation.brain import LABELS, REGIONS, Simulation, simulate_cases

SIMULATION = Simulation(spacing_mm=3.0)
"""3 mm: the same subjects as at 2 mm, with fewer voxels than a training on a CPU can afford."""


@dataclass(frozen=True)
class Task:
    """What an experiment is about.

    Attributes:
        name: Of the data, as the tables and figures say it.
        licence: Of the data.
        cite: Where they are from.
        labels: Names of the foreground labels, {"1": "anterior", ...}.
        read: `(data_dir, count)` -> cases; `count` None means all there are.
        volume: `(D, H, W)` of a usual case, for the cost of a network.
        regions: Labels scored together, {"whole tumour": (1, 2)}.
        compared: What arms are compared by: labels, regions or "mean", the most
            important first.
        note: What a reader of a result must know about the data.
    """

    name: str
    licence: str
    cite: tuple[str, ...]
    labels: Mapping[str, str]
    read: Callable[[str | Path | None, int | None], list[Case]]
    volume: tuple[int, int, int]
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    compared: tuple[str, ...] = ("mean",)
    note: str = ""

    @property
    def num_classes(self) -> int:
        """Labels and background."""
        return len(self.labels) + 1

    @property
    def scored(self) -> dict[str, str]:
        """Everything that has a score of its own: `{key in a result: name}`."""
        return {**self.labels, **{region: region for region in self.regions}}

    def describe(self) -> dict[str, Any]:
        """For a results file."""
        return {
            "name": self.name,
            "licence": self.licence,
            "cite": self.cite,
            "labels": self.labels,
            "regions": self.regions,
            "note": self.note,
        }


def _hippocampus(data_dir: str | Path | None, count: int | None) -> list[Case]:
    return read_msd(hippocampus_folder(data_dir))[:count]


def _simulated(data_dir: str | Path | None, count: int | None) -> list[Case]:
    if data_dir is not None:
        raise ValueError(
            f"Simulated scans are made, not read, but a data folder was given: {data_dir}. "
            "Add --data hippocampus (or --data brats) to use it."
        )
    if count is None:
        raise ValueError("Simulated scans need a number of cases: set num_cases.")
    return simulate_cases(count, seed=0, simulation=SIMULATION)


def _brats(data_dir: str | Path | None, count: int | None) -> list[Case]:
    if data_dir is None:
        raise ValueError(
            "BraTS' scans must be asked for at the challenge, so there is no default: pass "
            "--data-dir with the folder that holds a sub-folder for each subject."
        )
    return read_brats(data_dir, spacing_mm=SIMULATION.spacing_mm)[:count]


TASKS = {
    "simulated": Task(
        name="simulated brain MRI with tumours",
        licence="CC BY 4.0; anatomy: MNI152, © Louis Collins, McGill University",
        cite=("https://doi.org/10.1016/j.neuroimage.2010.07.033",),
        labels=LABELS,
        read=_simulated,
        volume=SIMULATION.shape,
        regions=REGIONS,
        compared=("whole tumour", "2", "mean"),
        note="Simulated, no patient's: what holds here need not hold for real scans.",
    ),
    "hippocampus": Task(
        name="Medical Segmentation Decathlon, Task04 Hippocampus",
        licence="CC BY-SA 4.0",
        cite=("https://arxiv.org/abs/1902.09063", "https://doi.org/10.1038/s41467-022-30695-9"),
        labels={"1": "anterior", "2": "posterior"},
        read=_hippocampus,
        volume=(40, 64, 48),
        note="A case is one hemisphere; which two belong to a person is not public, so a person "
        "may be on both sides of the split.",
    ),
    "brats": Task(
        name="brain MRI of a folder named as in the BraTS challenge, at 3 mm",
        licence="that of the data",
        cite=("https://arxiv.org/abs/2107.02314",),
        labels=LABELS,
        read=_brats,
        volume=(52, 80, 80),
        regions=REGIONS,
        compared=("whole tumour", "2"),
        note="Resampled to 3 mm; scores are of that grid.",
    ),
}
