"""The networks that recipes name, built from a seed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dpclean.errors import InputError
from dpclean.train.cifar_resnet import CifarResNet
from dpclean.train.efficientnet_lite import EfficientNetLite0
from dpclean.train.recipes import CIFAR_RESNETS, LITE, TORCHVISION, Recipe, classifiers

WHITENING_PATCHES = 1 << 19  # at most, from which the first layer's filters are found


class Stage(nn.Module):
    """A convolution that halves the edge, then a residual one. float [N,I,H,W] to [N,O,H/2,W/2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs, momentum=0.4)
        self.residual = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs, momentum=0.4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(functional.max_pool2d(self.reduce(x), 2)))
        return x + functional.relu(self.norm2(self.residual(x)))


class Residual(nn.Module):
    """A small residual network for small images, after the CIFAR-10 speed runs.

    Page, "How to Train Your ResNet", 2019 (residual stages, whitened patches); Jordan, "94 % on CIFAR-10 in 3.29
    seconds on a single GPU", arXiv 2404.00498 (2 x 2 patches with both signs, scaled head).
    """

    def __init__(self, widths: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.stages = nn.Sequential(*(Stage(i, o) for i, o in zip((24, *widths), widths, strict=False)))
        self.head = nn.Linear(widths[-1], classes, bias=False)
        self.scale = 1 / 9

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.whiten(x))
        logits: Tensor = self.head(self.stages(x).amax((2, 3)))
        return logits * self.scale

    @torch.no_grad()
    def set_whitening(self, images: Tensor) -> None:
        """First filters that give uncorrelated, equally large outputs on these images, float [N,3,H,W]."""
        count = max(1, WHITENING_PATCHES // (images.shape[2] * images.shape[3]))
        patches = images[:count].unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 12).double()
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (directions / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        self.whiten.weight.copy_(torch.cat((filters, -filters)))


def build(recipe: Recipe, classes: int, seed: int) -> nn.Module:
    """A network with fresh weights, which depend on the arguments only; the global generator is left as it was.

    Raises InputError for one that is not known.
    """
    _check_known(recipe)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seed)
        if recipe.network == "residual":
            return Residual(recipe.widths, classes)
        if recipe.network == LITE:
            return EfficientNetLite0(classes)
        if recipe.network in CIFAR_RESNETS:
            return CifarResNet(CIFAR_RESNETS[recipe.network], classes)
        return _from_torchvision(recipe.network, classes)


def outline(recipe: Recipe, classes: int) -> nn.Module:
    """The same without memory for the weights, to ask for names and shapes; a RegNet computes while it is built."""
    with torch.device("cpu" if "regnet" in recipe.network else "meta"):
        return build(recipe, classes, 0)


def _check_known(recipe: Recipe) -> None:
    name = recipe.network
    if name == "residual" and not recipe.widths:
        raise InputError("the network 'residual' has no widths", "give a recipe, or a model, that dpclean made")
    if name not in ("residual", LITE, *CIFAR_RESNETS) and name.removeprefix(TORCHVISION) not in classifiers():
        raise InputError(f"the network {name[:60]!r} is not known", "give a recipe, or a model, that dpclean made")


def _from_torchvision(name: str, classes: int) -> nn.Module:
    from torchvision import models

    network: nn.Module = models.get_model(name.removeprefix(TORCHVISION), weights=None, num_classes=classes)
    if name == "resnet18":  # small images: no reduction before the first stage
        network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        network.maxpool = nn.Identity()
    return network


def head(network: nn.Module) -> nn.Module:
    """The classifier proper: the last linear layer, or the last convolution where there is none."""
    layers = list(network.modules())
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    return linear[-1] if linear else [layer for layer in layers if isinstance(layer, nn.Conv2d)][-1]
