"""Networks that benchmarks measure with or against, none of them part of dpclean."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

# Ho et al. 2020 for CIFAR-10, 35.7 M parameters, as diffusers describes it
DDPM_CIFAR: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": (128, 256, 256, 256),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}


def random_ddpm_cifar(folder: Path) -> Path:
    """The DDPM-CIFAR U-Net with random weights in the diffusers layout: for timing only."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    UNet2DModel(**DDPM_CIFAR).save_pretrained(folder)
    (folder / "scheduler").mkdir()
    scheduler = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "prediction_type": "epsilon"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


class BasicBlock(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut takes every second pixel and pads channels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if h.shape != x.shape:
            missing = (h.shape[1] - x.shape[1]) // 2
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, missing, missing))
        return functional.relu(h + x)


class CifarResnet(nn.Module):
    """He et al. 2016, section 4.2, with n blocks a stage: 6 n + 2 layers."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        stages = []
        for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
            first = BasicBlock(inputs, outputs, 1 if inputs == outputs else 2)
            stages.append(nn.Sequential(first, *(BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))))
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.bn1(self.conv1(x)))
        h = self.layer3(self.layer2(self.layer1(h)))
        logits: Tensor = self.linear(h.mean((2, 3)))
        return logits


def load_classifier(data: Path, layers: int) -> CifarResnet:
    """ResNet-20 or ResNet-56 for CIFAR-10 from the data folder."""
    network = CifarResnet((layers - 2) // 6)
    network.load_state_dict(load_file(data / f"cifar10_resnet{layers}.safetensors"), strict=False)
    return network.eval()


@torch.inference_mode()
def accuracy(network: CifarResnet, images: Tensor, labels: Tensor) -> float:
    """Share of right answers; images uint8 [N, 32, 32, 3]."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    right = 0
    for start in range(0, len(images), 500):
        x = (images[start : start + 500].float() / 255 - mean) / deviation
        answers = network(x.permute(0, 3, 1, 2)).argmax(1)
        right += int((answers == labels[start : start + 500]).sum())
    return right / len(images)


class Ffdnet(nn.Module):
    """Zhang et al. 2018, colour: convolutions on patches of 2 x 2 pixels and a map of sigma; gives the clean image."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number in range(0, 23, 2):
            weight = weights[f"model.{number}.weight"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.load_state_dict({"weight": weight, "bias": weights[f"model.{number}.bias"]})
            layers += [conv, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, noised: Tensor, sigma: float) -> Tensor:
        """[N, 3, H, W] in [0, 1], not clipped."""
        height, width = noised.shape[2:]
        padded = functional.pad(noised, (0, width % 2, 0, height % 2), mode="replicate")
        x = functional.pixel_unshuffle(padded, 2)
        x = torch.cat([x, torch.full_like(x[:, :1], sigma)], 1)
        return functional.pixel_shuffle(self.layers(x), 2)[:, :, :height, :width]


def load_ffdnet(data: Path) -> Ffdnet:
    """The colour FFDNet from the data folder, the published weights."""
    return Ffdnet(load_file(data / "ffdnet_color.safetensors")).eval()
