"""The ways to train one student that are compared. All see the same batches.

`kdcore` and `online` are this library. `keras` is keras.distillation with the form of its
loss that is correct. `pytorch` is the loop everybody writes, `torchdistill` the same with
that library's loss. `plain` has no teacher. `prototype` is `plain` as it was written first:
Keras' own batch normalization and losses, one step a call.
"""

import sys
from typing import Any

import keras
import numpy as np
from common import ALPHA, TEMPERATURE, Setting, compiled, fit, schedule

import kdcore


class KerasMethod:
    """Anything with `fit`."""

    def __init__(self, setting: Setting, seed: int, steps: int) -> None:
        self.network = setting.student(seed)
        self.batches = setting.batches(seed, self.soft_targets(setting))
        self.model = compiled(self.wrap(setting), steps)

    def soft_targets(self, setting: Setting) -> kdcore.SoftTargets | None:
        return None

    def wrap(self, setting: Setting) -> keras.Model:
        return self.network

    def run(self, steps: int) -> None:
        fit(self.model, self.batches, steps)


class Kdcore(KerasMethod):
    """Soft targets from disk."""

    def soft_targets(self, setting: Setting) -> kdcore.SoftTargets:
        return setting.soft_targets()

    def wrap(self, setting: Setting) -> keras.Model:
        return kdcore.Distiller(self.network, temperature=TEMPERATURE, alpha=ALPHA)


class Online(KerasMethod):
    """The teacher runs along."""

    def wrap(self, setting: Setting) -> keras.Model:
        return kdcore.Distiller(self.network, setting.teacher(), TEMPERATURE, ALPHA)


class KerasDistillation(KerasMethod):
    """With `KLDivergence()`: its default loss is wrong (see `docs/design.md`)."""

    def wrap(self, setting: Setting) -> keras.Model:
        from keras.distillation import Distiller, LogitsDistillation

        return Distiller(
            teacher=setting.teacher(),
            student=self.network,
            distillation_losses=LogitsDistillation(TEMPERATURE, loss=keras.losses.KLDivergence()),
            student_loss_weight=1 - ALPHA,
        )


class Prototype(KerasMethod):
    """As a first version is written, with the layers and defaults that Keras has."""

    def __init__(self, setting: Setting, seed: int, steps: int) -> None:
        super().__init__(setting, seed, steps)
        self.network = self.model = keras.models.clone_model(self.network)
        self.model.compile(
            keras.optimizers.AdamW(1e-3),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=False,
        )


class PyTorch:
    """A loop with an online teacher, channels last, Adam, the same losses and schedule."""

    library = "plain"

    def __init__(self, setting: Setting, seed: int, steps: int) -> None:
        # A CUDA build brings Triton, whose LLVM crashes the process after TensorFlow's. Nothing
        # here is compiled, so PyTorch is told that there is none.
        sys.modules["triton"] = None  # type: ignore[assignment]
        import torch
        from torch_unet import from_keras

        self.torch = torch
        self.network = from_keras(setting.student(seed))
        self.teacher = from_keras(setting.teacher()).eval().requires_grad_(False)
        self.batches = setting.batches(seed)
        self.soft_loss = _soft_loss(self.library)
        self.optimizer = torch.optim.Adam(self.network.parameters(), eps=1e-7)
        rate = schedule(steps)
        self.rates = [float(rate(step)) for step in range(steps + 1)]
        self.step = 0

    def run(self, steps: int) -> None:
        for _ in range(max(1, steps // self.batches.num_batches)):
            for index in range(self.batches.num_batches):
                rate = self.rates[min(self.step, len(self.rates) - 1)]
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                self._train(*self.batches[index])
                self.step += 1
            self.batches.on_epoch_end()

    def _train(self, x: np.ndarray, y: np.ndarray) -> None:
        from torch_unet import dice_cross_entropy

        torch = self.torch
        # A transposed NHWC array is what PyTorch calls channels_last.
        image = torch.from_numpy(x).permute(0, 3, 1, 2)
        mask = torch.from_numpy(y).long()
        self.network.train()
        with torch.no_grad():
            teacher_logits = self.teacher(image)
        logits = self.network(image)
        hard = dice_cross_entropy(mask, logits)
        loss = (1 - ALPHA) * hard + ALPHA * self.soft_loss(teacher_logits, logits)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class TorchDistill(PyTorch):
    """With `torchdistill.losses.mid_level.KDLoss`."""

    library = "torchdistill"


def _soft_loss(library: str) -> Any:
    import torch

    if library == "torchdistill":
        from torchdistill.losses.mid_level import KDLoss

        module = KDLoss("s", "output", "t", "output", TEMPERATURE, alpha=0.0, beta=1.0)

        def from_library(teacher: Any, student: Any) -> Any:
            # Its sum runs over voxels too, so they have to be made samples of a batch.
            flat = [z.permute(0, 2, 3, 1).reshape(-1, z.shape[1]) for z in (teacher, student)]
            loss = module({"s": {"output": flat[1]}}, {"t": {"output": flat[0]}})
            return TEMPERATURE**2 * loss

        return from_library

    def usual(teacher: Any, student: Any) -> Any:
        log_q = torch.log_softmax(student / TEMPERATURE, dim=1)
        p = torch.softmax(teacher / TEMPERATURE, dim=1)
        voxels = student.numel() // student.shape[1]
        return TEMPERATURE**2 * torch.nn.functional.kl_div(log_q, p, reduction="sum") / voxels

    return usual


METHODS = {
    "plain": KerasMethod,
    "kdcore": Kdcore,
    "online": Online,
    "keras": KerasDistillation,
    "pytorch": PyTorch,
    "torchdistill": TorchDistill,
    "prototype": Prototype,
}
