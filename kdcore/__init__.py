"""Knowledge distillation for medical image segmentation with Keras 3."""

from kdcore.augmentation import Augmentation
from kdcore.batches import Batches
from kdcore.cases import Case, read_case, read_msd, save_mask
from kdcore.distiller import Distiller, StudentCheckpoint
from kdcore.inference import predict_mask, predict_probabilities
from kdcore.losses import (
    DiceCrossEntropy,
    channel_wise_loss,
    cross_entropy,
    dice_cross_entropy,
    kd_loss,
    regional_kd_loss,
    soft_dice_loss,
)
from kdcore.metrics import ForegroundDice, calibration, dice, evaluate, surface_distances
from kdcore.normalization import fit_minmax, normalize
from kdcore.soft_targets import NNUNetProbabilities, SoftTargets
from kdcore.splits import LeakageError, Split, split_cases
from kdcore.statistics import compare
from kdcore.unet import unet
