"""Knowledge distillation for medical image segmentation with Keras 3."""

from kdcore.augmentation import Augmentation
from kdcore.batches import Batches
from kdcore.data import (
    Case,
    LeakageError,
    NNUNetProbabilities,
    Simulation,
    Split,
    hippocampus_folder,
    read_brats,
    read_case,
    read_msd,
    reorient,
    resample,
    save_mask,
    simulate_cases,
    split_cases,
)
from kdcore.distiller import Distiller, StudentCheckpoint
from kdcore.evaluation.metrics import (
    ForegroundDice,
    calibration,
    dice,
    evaluate,
    mean_dice,
    surface_distances,
)
from kdcore.evaluation.statistics import compare, gap_closed
from kdcore.evaluation.teaching import TeachingReport, check_teaching
from kdcore.export import export, load_exported
from kdcore.heads import to_logits
from kdcore.inference import predict_mask, predict_probabilities
from kdcore.losses import (
    DiceBinaryCrossEntropy,
    DiceCrossEntropy,
    bernoulli_kd_loss,
    channel_wise_loss,
    cross_entropy,
    dice_cross_entropy,
    kd_loss,
    pseudo_label_loss,
    regional_bernoulli_kd_loss,
    regional_kd_loss,
    soft_dice_loss,
)
from kdcore.normalization import fit_minmax, normalize
from kdcore.soft_targets import SoftTargets
from kdcore.training import fit, warmup_cosine
from kdcore.unet import unet

__all__ = [
    "Augmentation",
    "Batches",
    "Case",
    "DiceBinaryCrossEntropy",
    "DiceCrossEntropy",
    "Distiller",
    "ForegroundDice",
    "LeakageError",
    "NNUNetProbabilities",
    "Simulation",
    "SoftTargets",
    "Split",
    "StudentCheckpoint",
    "TeachingReport",
    "bernoulli_kd_loss",
    "calibration",
    "channel_wise_loss",
    "check_teaching",
    "compare",
    "cross_entropy",
    "dice",
    "dice_cross_entropy",
    "evaluate",
    "export",
    "fit",
    "fit_minmax",
    "gap_closed",
    "hippocampus_folder",
    "kd_loss",
    "load_exported",
    "mean_dice",
    "normalize",
    "predict_mask",
    "predict_probabilities",
    "pseudo_label_loss",
    "read_brats",
    "read_case",
    "read_msd",
    "regional_bernoulli_kd_loss",
    "regional_kd_loss",
    "reorient",
    "resample",
    "save_mask",
    "simulate_cases",
    "soft_dice_loss",
    "split_cases",
    "surface_distances",
    "to_logits",
    "unet",
    "warmup_cosine",
]
