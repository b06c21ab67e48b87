"""What the examples share: data, sizes, steps and rates as numbers, and the command line.

    python examples/02_teacher.py --data hippocampus --tier smoke --seed 1

In a notebook the same comes from the environment: KDCORE_DATASET, KDCORE_TIER, KDCORE_SEED,
KDCORE_RUNS. Nothing here trains: this is the place to change a number.
"""

import argparse
import os
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import kdcore


@dataclass(frozen=True)
class Network:
    """A U-Net, and how it is trained.

    Attributes:
        sequences: The MRI sequences it sees.
        filters: Filters of its first level; each next level has twice as many.
        shape: (height, width) of slices, or (depth, height, width) of patches, in voxels.
        batch_size: Slices or patches a step.
        epochs: Epochs of `steps_per_epoch` steps.
        learning_rate: The highest rate.
        foreground_share: Share of the samples that must show foreground; None looks for none.
    """

    sequences: tuple[str, ...]
    filters: int
    shape: tuple[int, ...]
    batch_size: int
    epochs: int
    learning_rate: float
    foreground_share: float | None = None
    steps_per_epoch: int = 100

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Slices are all of one size; a 3-D network takes volumes of any size."""
        space = self.shape if len(self.shape) == 2 else (None, None, None)
        return (*space, len(self.sequences))


@dataclass(frozen=True)
class Settings:
    """One run of the tutorial.

    Attributes:
        data, tier: As on the command line.
        title: What the data are, for tables and figures.
        labels: Names of the labels; 0 is the background.
        regions: Labels that are scored together.
        licence: Of the data, and of figures and weights made from them.
        num_cases: How many scans are used; None means all there are.
        spacing_mm: Voxels of simulated scans, and what BraTS' are brought to.
        num_labelled, num_validation, num_test: Scans; of ACDC patients, each with two scans. The
            other training scans are unlabelled.
        teacher, student: The baseline is the student without a teacher.
        depth: How often the U-Nets halve the image.
        augmentation: Of every network's training alike.
        seed: Of weights and batches, and of which training scans have labels.
        runs: Folder of all runs.
        data_dir: Folder of the data, for those that are read.
    """

    data: str
    title: str
    labels: dict[str, str]
    num_labelled: int
    num_validation: int
    num_test: int
    teacher: Network
    student: Network
    regions: dict[str, tuple[int, ...]]
    num_cases: int | None = None
    spacing_mm: float = 3.0
    licence: str = ""
    depth: int = 3
    augmentation: kdcore.Augmentation = field(default_factory=kdcore.Augmentation)
    tier: str = "quick"
    seed: int = 0
    runs: str = "runs"
    data_dir: str | None = None

    def __str__(self) -> str:
        kind = "patients" if self.data == "acdc" else "scans"
        return (
            f"{self.title}, {self.tier}, seed {self.seed}: {self.num_labelled} labelled, "
            f"{self.num_validation} validation, {self.num_test} test {kind}"
        )

    @property
    def num_classes(self) -> int:
        return 1 + len(self.labels)

    @property
    def name(self) -> str:
        return f"{self.data}-{self.tier}"

    @property
    def folder(self) -> Path:
        """Of everything these settings make."""
        return Path(self.runs) / (f"{self.name}-seed{self.seed}" if self.seed else self.name)

    @property
    def recorded(self) -> dict[str, Any]:
        """What decides the result, for its file; the folders of this machine do not."""
        return {k: v for k, v in asdict(self).items() if k not in ("runs", "data_dir")}

    @property
    def figures(self) -> Path:
        folder = self.folder / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def need(self, file: str, example: str) -> Path:
        """The path of what another example makes, or a sentence that says which."""
        path = self.folder / file
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is not there. Run examples/{example} first, with the same settings."
            )
        return path

    def read_cases(self) -> list[kdcore.Case]:
        """The scans. Simulated ones are made once and kept in the cache."""
        if self.data == "simulated":
            voxels = kdcore.Simulation(spacing_mm=self.spacing_mm)
            return kdcore.simulate_cases(self.num_cases, seed=0, simulation=voxels)
        if self.data == "brats":
            return kdcore.read_brats(self.data_dir, spacing_mm=self.spacing_mm)[: self.num_cases]
        if self.data in ("acdc", "lgg"):
            scans = self._read_slices()[: self.num_cases]
            return [kdcore.data.resize(scan, self.student.shape) for scan in scans]
        folder = kdcore.hippocampus_folder(self.data_dir)
        return kdcore.read_msd(folder, labelled_only=True)[: self.num_cases]

    def _read_slices(self) -> list[kdcore.Case]:
        """Scans whose files do not say how large their voxels are."""
        if self.data == "lgg":
            return kdcore.data.read_lgg(self.data_dir)
        return kdcore.data.read_acdc(kdcore.data.acdc_folder(self.data_dir))

    def split(self, cases: list[kdcore.Case], all_labelled: bool = False) -> kdcore.Split:
        """Which scans have labels, which are the teacher's alone, which are held out.

        Drawn by chance; `seed` draws the labelled ones anew, validation and test scans stay. For
        ACDC it is the split on which its results are published.
        """
        labelled = self.num_labelled
        if all_labelled:
            patients = {kdcore.data.acdc_patient(case) for case in cases if self.data == "acdc"}
            labelled = len(patients or cases) - self.num_validation - self.num_test
        if self.data == "acdc" and self.tier != "smoke":
            return kdcore.data.acdc_split(cases, labelled)
        return kdcore.split_cases(
            cases,
            num_labelled=labelled,
            num_validation=self.num_validation,
            num_test=self.num_test,
            groups=kdcore.data.acdc_patient if self.data == "acdc" else None,
            stratify=kdcore.data.lgg_site if self.data == "lgg" else None,
            labelled_seed=self.seed,
        )


ALL = ("T1", "T1c", "T2", "FLAIR")
TUMOUR = {"1": "oedema", "2": "tumour core"}
WHOLE_TUMOUR = {"whole tumour": (1, 2)}

# The teacher sees four MRI sequences, the student T1 alone: all it will get in deployment.
SIMULATED = Settings(
    data="simulated",
    title="simulated brain MRI with tumours",
    licence="CC BY 4.0; anatomy: MNI152, © Louis Collins, McGill University",
    labels=TUMOUR,
    regions=WHOLE_TUMOUR,
    num_cases=240,
    num_labelled=8,
    num_validation=20,
    num_test=60,
    teacher=Network(ALL, filters=8, shape=(64, 56), batch_size=16, epochs=10, learning_rate=1e-2),
    student=Network(
        ("T1",),
        filters=8,
        shape=(64, 56),
        batch_size=16,
        epochs=15,
        learning_rate=1e-2,
        foreground_share=0.66,
    ),
)
# The teacher is a 3-D network of 18 times the student's parameters.
HIPPOCAMPUS = Settings(
    data="hippocampus",
    title="Medical Segmentation Decathlon, Task04 Hippocampus",
    licence="CC BY-SA 4.0",
    labels={"1": "anterior", "2": "posterior"},
    regions={},
    num_labelled=8,
    num_validation=20,
    num_test=60,
    teacher=Network(
        ("MRI",), filters=10, shape=(32, 48, 32), batch_size=2, epochs=12, learning_rate=5e-3
    ),
    student=Network(
        ("MRI",), filters=4, shape=(64, 48), batch_size=16, epochs=20, learning_rate=2e-2
    ),
)
# A folder of your own, with a sub-folder a patient, named as in the BraTS challenge.
BRATS = replace(
    SIMULATED,
    data="brats",
    title="brain MRI of a folder named as in the BraTS challenge, at 3 mm",
    licence="that of the data",
    num_cases=None,
    teacher=replace(SIMULATED.teacher, shape=(80, 80)),
    student=replace(SIMULATED.student, shape=(80, 80)),
)
# The benchmark for few labels: cine-MRI of the heart, 7 labelled patients, and a student of a
# sixteenth of its teacher's parameters. The stronger augmentation is worth more than the teacher.
STRONG = kdcore.Augmentation(
    rotate_deg=30.0,
    scale=0.25,
    shift=8.0,
    elastic=2.0,
    gamma=0.5,
    noise=0.1,
    geometric_share=0.9,
)
ACDC = Settings(
    data="acdc",
    title="ACDC, cine-MRI of the heart, slices of 128 × 128",
    licence="CC BY-NC-SA 4.0",
    labels={"1": "right ventricle", "2": "myocardium", "3": "left ventricle"},
    regions={},
    num_labelled=7,
    num_validation=10,
    num_test=20,
    augmentation=STRONG,
    teacher=Network(
        ("cine",), filters=32, shape=(128, 128), batch_size=8, epochs=10, learning_rate=5e-3
    ),
    student=Network(
        ("cine",), filters=8, shape=(128, 128), batch_size=16, epochs=15, learning_rate=1e-2
    ),
)
# Gliomas of real patients: the teacher sees three sequences, the student T1, which shows little.
LGG = Settings(
    data="lgg",
    title="lower-grade gliomas (Buda et al.), slices of 128 × 128",
    licence="CC BY-NC-SA 4.0",
    labels={"1": "FLAIR abnormality"},
    regions={},
    num_labelled=10,
    num_validation=10,
    num_test=20,
    augmentation=STRONG,
    teacher=Network(
        ("T1", "FLAIR", "T1c"),
        filters=16,
        shape=(128, 128),
        batch_size=8,
        epochs=20,
        learning_rate=5e-3,
        foreground_share=0.66,
    ),
    student=Network(
        ("T1",),
        filters=8,
        shape=(128, 128),
        batch_size=16,
        epochs=20,
        learning_rate=1e-2,
        foreground_share=0.66,
    ),
)
DATA = {one.data: one for one in (SIMULATED, ACDC, HIPPOCAMPUS, LGG, BRATS)}


def smoke(quick: Settings) -> Settings:
    """Ten scans and four steps: shows that everything runs, and nothing else."""

    def small(network: Network) -> Network:
        return replace(
            network,
            filters=max(2, network.filters // 2),
            shape=(8, 32, 24)[-len(network.shape) :],
            batch_size=min(4, network.batch_size),
            epochs=1,
            steps_per_epoch=4,
        )

    return replace(
        quick,
        tier="smoke",
        num_cases=20 if quick.data == "acdc" else 10,  # two of each patient
        num_labelled=2,
        num_validation=2,
        num_test=3,
        depth=1,
        teacher=small(quick.teacher),
        student=small(quick.student),
    )


def full(quick: Settings) -> Settings:
    """Everything is trained three times as long."""
    longer = {
        name: replace(network, epochs=3 * network.epochs)
        for name, network in (("teacher", quick.teacher), ("student", quick.student))
    }
    return replace(quick, tier="full", **longer)


TIERS = {"smoke": smoke, "quick": lambda settings: settings, "full": full}


def from_command_line(arguments: list[str] | None = None) -> Settings:
    """What the command line asks for; in a notebook, the environment."""
    get, number = os.environ.get, {"type": int, "default": None}
    parser = argparse.ArgumentParser(description="An example of the kdcore tutorial.")
    parser.add_argument("--data", choices=list(DATA), default=get("KDCORE_DATASET", "simulated"))
    parser.add_argument("--tier", choices=list(TIERS), default=get("KDCORE_TIER", "quick"))
    parser.add_argument("--seed", type=int, default=int(get("KDCORE_SEED", "0")))
    parser.add_argument("--runs", default=get("KDCORE_RUNS", "runs"), help="folder of the runs")
    parser.add_argument("--data-dir", default=None, help="folder that holds the data")
    parser.add_argument("--labelled", help="number of labelled scans, for data of yours", **number)
    parser.add_argument("--validation", help="number of validation scans", **number)
    parser.add_argument("--test", help="number of test scans", **number)
    if arguments is None:
        arguments = [] if "ipykernel" in sys.modules else sys.argv[1:]
    given = vars(parser.parse_args(arguments))
    if given["data"] in ("brats", "lgg") and given["data_dir"] is None:
        data = given["data"]
        parser.error(f"--data {data} needs --data-dir: the folder that holds the patients")
    if given["data"] == "simulated" and given["data_dir"] is not None:
        parser.error("simulated scans are made, not read: say with --data what --data-dir holds")
    settings = TIERS[given.pop("tier")](DATA[given.pop("data")])
    for part in ("labelled", "validation", "test"):
        given[f"num_{part}"] = given.pop(part)
    return replace(settings, **{name: value for name, value in given.items() if value is not None})
