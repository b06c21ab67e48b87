"""Scans: read, split, brought to another grid, downloaded or simulated. Needs no Keras."""

from kdcore.data.brats import read_brats
from kdcore.data.cases import Case
from kdcore.data.download import hippocampus_folder
from kdcore.data.grid import orientation, reorient, resample
from kdcore.data.msd import label_names, read_msd
from kdcore.data.nifti import read_case, save_mask
from kdcore.data.nnunet import NNUNetProbabilities
from kdcore.data.simulation import Simulation, simulate_cases
from kdcore.data.splits import LeakageError, Split, split_cases

__all__ = [
    "Case",
    "LeakageError",
    "NNUNetProbabilities",
    "Simulation",
    "Split",
    "hippocampus_folder",
    "label_names",
    "orientation",
    "read_brats",
    "read_case",
    "read_msd",
    "reorient",
    "resample",
    "save_mask",
    "simulate_cases",
    "split_cases",
]
