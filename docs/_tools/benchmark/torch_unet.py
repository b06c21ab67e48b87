"""`kdcore.unet` once more in PyTorch, with the same weights, so that both train the same."""

from typing import Any

import keras
import numpy as np
import torch
from torch import nn


class Block(nn.Sequential):
    """Two convolutions with batch normalization and ReLU."""

    def __init__(self, channels: int, filters: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [
                nn.Conv2d(channels, filters, 3, padding=1, bias=False),
                nn.BatchNorm2d(filters, eps=1e-3, momentum=0.1),
                nn.ReLU(inplace=True),
            ]
            channels = filters
        super().__init__(*layers)


class UNet(nn.Module):
    """(B, S, H, W) -> (B, C, H, W) logits."""

    def __init__(self, sequences: int, num_classes: int, filters: int, depth: int) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(depth + 1)]
        self.input_shape = (None, None, None, sequences)
        self.down = nn.ModuleList(
            Block(a, b) for a, b in zip([sequences, *widths[:-1]], widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(Block(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(filters, num_classes, 1)
        self.name = "torch_unet"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down[:-1]:
            skips.append(block(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x)

    @torch.no_grad()
    def predict_on_batch(self, images: np.ndarray) -> np.ndarray:
        """As Keras' does, for `kdcore.evaluate`."""
        self.eval()
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        return self(x).permute(0, 2, 3, 1).numpy()


def from_keras(model: keras.Model) -> UNet:
    """The same network with the same weights, channels last."""
    filters = model.get_layer("encoder0_conv0").filters
    depth = sum(isinstance(layer, keras.layers.MaxPooling2D) for layer in model.layers)
    network = UNet(model.input_shape[-1], model.output_shape[-1], filters, depth)
    network.input_shape = model.input_shape
    modules = [*_modules(network)]
    layers = [layer for layer in model.layers if layer.weights]
    for module, layer in zip(modules, layers, strict=True):
        _copy(layer.get_weights(), module)
    return network.to(memory_format=torch.channels_last)


def _modules(network: UNet) -> Any:
    """In the order of the Keras layers."""

    def leaves(block: Block) -> Any:
        return [m for m in block if not isinstance(m, nn.ReLU)]

    for block in network.down:
        yield from leaves(block)
    for up, merge in zip(network.up, network.merge, strict=True):
        yield up
        yield from leaves(merge)
    yield network.head


@torch.no_grad()
def _copy(weights: list[np.ndarray], module: nn.Module) -> None:
    arrays = [torch.from_numpy(np.array(w)) for w in weights]
    if isinstance(module, nn.BatchNorm2d):
        targets = (module.weight, module.bias, module.running_mean, module.running_var)
        for target, array in zip(targets, arrays, strict=True):
            target.copy_(array)
        return
    # Keras: (h, w, in, out), transposed (h, w, out, in). Both become the other way round.
    module.weight.copy_(arrays[0].permute(3, 2, 0, 1))
    if len(arrays) > 1:
        module.bias.copy_(arrays[1])


def dice_cross_entropy(mask: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """½ soft Dice over the foreground classes present + ½ cross-entropy."""
    entropy = nn.functional.cross_entropy(logits, mask)
    target = nn.functional.one_hot(mask, logits.shape[1]).permute(0, 3, 1, 2)[:, 1:].float()
    probability = torch.softmax(logits, dim=1)[:, 1:]
    axes = (0, 2, 3)
    error = ((target - probability) ** 2).sum(axes)
    size = (target**2).sum(axes) + (probability**2).sum(axes)
    present = target.sum(axes) > 0
    dice = (error / (size + 1e-6))[present].mean() if present.any() else logits.sum() * 0
    return 0.5 * dice + 0.5 * entropy
