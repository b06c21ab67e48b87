"""Knowledge distillation for medical image segmentation with Keras 3."""

from kdcore.augmentation import Augmentation
from kdcore.batches import Batches
from kdcore.brats import read_brats
from kdcore.cases import Case
from kdcore.checks import TeachingReport, check_teaching
from kdcore.datasets import hippocampus_folder
from kdcore.deploy import export, load_exported
from kdcore.distiller import Distiller, StudentCheckpoint
from kdcore.hard_losses import DiceCrossEntropy, cross_entropy, dice_cross_entropy
from kdcore.inference import predict_mask, predict_probabilities
from kdcore.losses import channel_wise_loss, kd_loss, regional_kd_loss, soft_dice_loss
from kdcore.metrics import ForegroundDice, calibration, dice, evaluate, surface_distances
from kdcore.nnunet import NNUNetProbabilities
from kdcore.normalization import fit_minmax, normalize
from kdcore.reading import read_case, read_msd, save_mask
from kdcore.resampling import reorient, resample
from kdcore.runs import Run
from kdcore.simulate import Simulation, simulate_cases
from kdcore.soft_targets import SoftTargets
from kdcore.splits import LeakageError, Split, split_cases
from kdcore.statistics import compare, gap_closed
from kdcore.unet import unet

__all__ = [
    "Augmentation",
    "Batches",
    "Case",
    "DiceCrossEntropy",
    "Distiller",
    "ForegroundDice",
    "LeakageError",
    "NNUNetProbabilities",
    "Run",
    "Simulation",
    "SoftTargets",
    "Split",
    "StudentCheckpoint",
    "TeachingReport",
    "calibration",
    "channel_wise_loss",
    "check_teaching",
    "compare",
    "cross_entropy",
    "dice",
    "dice_cross_entropy",
    "evaluate",
    "export",
    "fit_minmax",
    "gap_closed",
    "hippocampus_folder",
    "kd_loss",
    "load_exported",
    "normalize",
    "predict_mask",
    "predict_probabilities",
    "read_brats",
    "read_case",
    "read_msd",
    "regional_kd_loss",
    "reorient",
    "resample",
    "save_mask",
    "simulate_cases",
    "soft_dice_loss",
    "split_cases",
    "surface_distances",
    "unet",
]
