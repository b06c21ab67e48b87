"""Scans: read, split, brought to another grid, downloaded or simulated. Needs no Keras."""

from kdcore.data.acdc import acdc_info, acdc_patient, acdc_split, read_acdc
from kdcore.data.brats import read_brats
from kdcore.data.cases import Case, relabel, to_regions
from kdcore.data.download import acdc_folder, hippocampus_folder
from kdcore.data.folders import read_folder
from kdcore.data.grid import orientation, reorient, resample, resize, resize_map
from kdcore.data.lgg import lgg_site, read_lgg
from kdcore.data.msd import label_names, label_regions, read_msd, read_nnunet
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
    "acdc_folder",
    "acdc_info",
    "acdc_patient",
    "acdc_split",
    "hippocampus_folder",
    "label_names",
    "label_regions",
    "lgg_site",
    "orientation",
    "read_acdc",
    "read_brats",
    "read_case",
    "read_folder",
    "read_lgg",
    "read_msd",
    "read_nnunet",
    "relabel",
    "reorient",
    "resample",
    "resize",
    "resize_map",
    "save_mask",
    "simulate_cases",
    "split_cases",
    "to_regions",
]
