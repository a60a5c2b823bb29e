"""Networks and graphs that the tests of backbones share."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor, nn

Array = np.ndarray[Any, Any]


def convolved(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution and batch normalisation as after a training."""
    norm = nn.BatchNorm2d(outputs)
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.3, 2)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.2)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False), norm)


class Plain(nn.Module):
    """Maps at 1/8, 1/16 and 1/32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = convolved(3, 8, stride=2), nn.MaxPool2d(3, 2, 1)
        self.down = nn.ModuleList([convolved(8, 12, stride=2), convolved(12, 16, stride=2), nn.Conv2d(16, 20, 3, 2, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.pool(torch.relu(self.stem(x)))
        maps = []
        for layer in self.down:
            x = nn.functional.leaky_relu(layer(x), 0.1)
            maps.append(x)
        return tuple(maps)


class Squeezed(nn.Module):
    """Depthwise convolutions, ReLU6, h-swish, squeeze and excitation by convolutions and by products, residuals."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(convolved(3, 8, stride=2), nn.Hardswish(), convolved(8, 8, stride=2), nn.ReLU6())
        self.deep = nn.Sequential(convolved(8, 16, 1), nn.ReLU6(), convolved(16, 16, 5, 2, 16), nn.Hardswish())
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Sigmoid()
        )
        self.project, self.less, self.more = convolved(16, 16, 1), nn.Linear(16, 4), nn.Linear(4, 16)
        self.last = convolved(16, 24, 3, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.deep(self.stem(x))
        x = x + self.project(x * self.excite(x))
        gates = nn.functional.hardsigmoid(self.more(torch.relu(self.less(x.mean((2, 3))))))
        x = x + x * gates[:, :, None, None]
        return [self.last(x), x]  # the coarser first


class Attention(nn.Module):
    """A ViT of one block, 1/16; with a class token."""

    def __init__(self, dim: int = 24, heads: int = 3, cells: int = 16, token: bool = True) -> None:
        super().__init__()
        self.heads, self.token = heads, nn.Parameter(torch.randn(1, 1, dim)) if token else None
        self.patches = nn.Conv2d(3, dim, 16, 16)
        self.places = nn.Parameter(torch.randn(1, cells + token, dim))
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        batch, dim, height, width = x.shape
        x = x.flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(batch, -1, -1), x], 1)
        x = x + self.places
        parts = self.qkv(self.norms[0](x)).reshape(batch, -1, 3, self.heads, dim // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(batch, -1, dim))
        x = x + self.mlp(self.norms[1](x))
        return x[:, self.token is not None :].transpose(1, 2).reshape(batch, dim, height, width)


class Pyramid(nn.Module):
    """A coarser map enlarged and added to a finer one, by nearest and by bilinear interpolation."""

    def __init__(self) -> None:
        super().__init__()
        self.below = Plain()
        self.lateral = nn.ModuleList([nn.Conv2d(channels, 8, 1) for channels in (12, 16, 20)])
        self.transposed = nn.ConvTranspose2d(8, 8, 4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        fine, middle, coarse = (layer(each) for layer, each in zip(self.lateral, self.below(x), strict=True))
        middle = middle + nn.functional.interpolate(coarse, size=middle.shape[-2:], mode="nearest")
        fine = fine + nn.functional.interpolate(middle, scale_factor=2.0, mode="bilinear", align_corners=False)
        return fine + self.transposed(middle), nn.functional.pixel_unshuffle(fine, 2)


class Windows(nn.Module):
    """Attention in shifted windows (Swin), and a normalisation of another kind at each map (ConvNeXt and others)."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 48)
        self.norm, self.merge = nn.LayerNorm(64), nn.Linear(64, 32)
        self.groups, self.instance = nn.GroupNorm(4, 16), nn.InstanceNorm2d(32, affine=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.patches(x).permute(0, 2, 3, 1)
        batch, height, width, dim = x.shape
        x = torch.roll(x, (-2, -2), (1, 2))
        cells = x.view(batch, height // 4, 4, width // 4, 4, dim).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, dim)
        q, k, v = self.qkv(cells).chunk(3, -1)
        cells = torch.softmax(q @ k.transpose(1, 2) / 4, -1) @ v
        x = cells.view(batch, height // 4, width // 4, 4, 4, dim).permute(0, 1, 3, 2, 4, 5)
        x = torch.roll(x.reshape(batch, height, width, dim), (2, 2), (1, 2))
        quarters = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        coarse = self.merge(self.norm(quarters))
        return self.groups(x.permute(0, 3, 1, 2)), self.instance(coarse.permute(0, 3, 1, 2))


def written(
    network: nn.Module,
    file: Path,
    *,
    opset: int = 18,
    open_axes: str = "batch height width",
    size: tuple[int, int] = (64, 96),
    new: bool = False,
) -> Path:
    """The network as an ONNX file by PyTorch's older exporter, or its `new` one, some axes of its image left open."""
    network = network.eval()
    axes = {0: "batch", 2: "height", 3: "width"}
    left = {axis: name for axis, name in axes.items() if name in open_axes.split()}
    image = torch.zeros(2 if 0 in left else 1, 3, *size)
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        if new:
            shapes = (left,) if left else None
            torch.onnx.export(
                network, (image,), file, dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False
            )
        else:
            names = {"input_names": ["image"], "dynamic_axes": {"image": left}}
            torch.onnx.export(network, (image,), file, dynamo=False, opset_version=opset, **names)
        logging.getLogger("torch.onnx").setLevel(level)
    return file


def graph(body: str, weights: Mapping[str, Array], *, opset: int = 18, outputs: str = "y") -> onnx.ModelProto:
    """A graph from `image` (N, 3, H, W) to outputs of any shape, in ONNX's own notation."""
    shown = ", ".join(f"float[] {name}" for name in outputs.split())
    head = f'<ir_version: 8, opset_import: ["": {opset}]> test (float[N, 3, H, W] image) => ({shown})'
    model = onnx.parser.parse_model(f"{head} {{ {body} }}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def by_onnxruntime(model: onnx.ModelProto | Path, images: Tensor) -> list[Tensor]:
    """What ONNX Runtime makes of images (B, 3, H, W) as the network takes them."""
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(found) for found in session.run(None, {session.get_inputs()[0].name: images.numpy()})]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
