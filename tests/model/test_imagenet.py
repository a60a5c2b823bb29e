"""EfficientNet-Lite0: its weights as they are published, and as evidence of a defect."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from flawmap.bundle import build, load_imagenet
from flawmap.config import load_recipe
from flawmap.errors import CheckpointError
from flawmap.lite0 import EPSILON, convert
from flawmap.model.familiarity import Familiarity
from flawmap.model.imagenet import CELL, CHANNELS, LITE0, STEM, ImageNetFeatures
from flawmap.train.run import start_weights

# Of `picture` by the published program in float32, after each row of blocks: mean, deviation, and of the first four
# channels the value half way down and a third across. Made with efficientnet_lite_pytorch 0.1.0.
PUBLISHED = [
    [0.1835, 7.2017, -3.4244, -1.8898, -12.4186, 5.3592],
    [1.0074, 11.4917, -3.801, 22.711, -0.0898, -2.0221],
    [0.8329, 9.4778, -3.2302, 7.0809, -3.3029, -2.0009],
    [-1.4293, 9.0874, 2.8906, -8.6745, -8.9434, -15.2425],
    [0.1989, 5.8259, 3.1444, 5.5606, 1.8952, 2.04],
    [0.3392, 4.6936, 1.2077, -0.3984, 0.2596, -0.3853],
    [-0.028, 2.3938, 1.1607, 2.6382, 1.0492, 1.7735],
]


def picture(side: int = 224) -> Tensor:
    """(1, 3, side, side), BGR."""
    down, across = torch.meshgrid(torch.arange(float(side)), torch.arange(float(side)), indexing="ij")
    blue = 0.5 + 0.4 * torch.sin(across / 7) * torch.cos(down / 11)
    green = 0.5 + 0.3 * torch.sin((across + down) / 5)
    return torch.stack([blue, green, across * down / (side - 1) ** 2])[None]


def shipped() -> ImageNetFeatures:
    model = ImageNetFeatures()
    load_imagenet(model)
    return model


def made_up() -> dict[str, Tensor]:
    """A state dict by the published names."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}

    def layer(convolution: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        shape = (outputs, inputs, kernel, kernel)
        found[f"{convolution}.weight"] = torch.randn(shape, generator=generator) / (inputs * kernel**2) ** 0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{norm}.{part}"] = torch.rand(outputs, generator=generator) + 0.5

    layer("_conv_stem", "_bn0", STEM, 3, 3)
    inputs, number = STEM, 0
    for row in LITE0:
        for _ in range(row.repeats):
            inner = inputs * row.expansion
            if row.expansion > 1:
                layer(f"_blocks.{number}._expand_conv", f"_blocks.{number}._bn0", inner, inputs, 1)
            layer(f"_blocks.{number}._depthwise_conv", f"_blocks.{number}._bn1", inner, 1, row.kernel)
            layer(f"_blocks.{number}._project_conv", f"_blocks.{number}._bn2", row.channels, inner, 1)
            inputs, number = row.channels, number + 1
    return found


def plainly(theirs: dict[str, Tensor], image: Tensor) -> list[Tensor]:
    """The network written down as published, with its batch normalisation: what each row of blocks puts out."""

    def layer(x: Tensor, convolution: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        kernel = theirs[f"{convolution}.weight"]
        side = kernel.shape[-1]
        missing = [max((-(-size // stride) - 1) * stride + side - size, 0) for size in x.shape[-2:]]
        x = nn.functional.pad(x, (missing[1] // 2, -(-missing[1] // 2), missing[0] // 2, -(-missing[0] // 2)))
        x = nn.functional.conv2d(x, kernel, stride=stride, groups=groups)
        mean, variance, weight, bias = (
            theirs[f"{norm}.{n}"] for n in ("running_mean", "running_var", "weight", "bias")
        )
        return nn.functional.batch_norm(x, mean, variance, weight, bias, eps=EPSILON)

    x = nn.functional.relu6(layer((image.flip(1) * 255 - 127) / 128, "_conv_stem", "_bn0", 2))
    found, number = [], 0
    for row in LITE0:
        for place in range(row.repeats):
            before, stride, name = x, row.stride if place == 0 else 1, f"_blocks.{number}."
            if row.expansion > 1:
                x = nn.functional.relu6(layer(x, f"{name}_expand_conv", f"{name}_bn0"))
            x = nn.functional.relu6(layer(x, f"{name}_depthwise_conv", f"{name}_bn1", stride, x.shape[1]))
            x = layer(x, f"{name}_project_conv", f"{name}_bn2")
            x = x + before if x.shape == before.shape and stride == 1 else x
            number += 1
        found.append(x)
    return found


def test_shipped_weights_give_the_published_features() -> None:
    for found, published in zip(shipped().blocks(picture()), PUBLISHED, strict=True):
        values = found[0, :4, found.shape[2] // 2, found.shape[3] // 3]
        told = torch.tensor([float(found.mean()), float(found.std()), *values.tolist()])
        torch.testing.assert_close(told, torch.tensor(published), rtol=0.01, atol=0.06)  # weights in half precision


def test_folded_weights_compute_what_the_published_network_does() -> None:
    theirs, image = made_up(), torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    for found, wanted in zip(convert(theirs).blocks(image), plainly(theirs, image), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    theirs = made_up()
    del theirs["_blocks.3._project_conv.weight"]
    with pytest.raises(CheckpointError, match=r"not the weights of EfficientNet-Lite0: '_blocks\.3"):
        convert(theirs)
    other = made_up() | {"_blocks.4._depthwise_conv.weight": torch.zeros(240, 1, 3, 3)}
    with pytest.raises(CheckpointError, match=r"rows\.2\.1\.depthwise\.weight of shape"):
        convert(other)


def test_a_file_that_is_no_checkpoint_is_told_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    file.write_bytes(b"no weights")
    ran = subprocess.run(
        [sys.executable, "-m", "flawmap.lite0", str(file)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1 and ran.stderr.count("\n") == 1 and "weights.pth cannot be read" in ran.stderr


def test_features_are_means_over_neighbours_on_one_grid() -> None:
    model, image = shipped(), picture(160)
    found = model(image)
    assert found.shape == (1, CHANNELS, 160 // CELL, 160 // CELL)
    first = model.blocks(image)[3]
    torch.testing.assert_close(found[:, : first.shape[1], 4, 5], first[:, :, 3:6, 4:7].mean((2, 3)))


@pytest.mark.parametrize("side", [16, 48, 80, 160])
def test_any_side_has_evidence_and_the_border_does_not_count(side: int) -> None:
    familiarity = Familiarity({"imagenet": 5})
    cells = side // CELL
    features = torch.randn(1, 5, cells, cells, generator=torch.Generator().manual_seed(side))
    logits = torch.zeros(1, 2, side, side)
    found = familiarity.evidence(logits, {"imagenet": features})[1]
    assert found.shape == (1, 1, side // 4, side // 4) and found.isfinite().all()
    marked = features.clone()
    marked[..., 0, :] += 100
    changed = not torch.equal(found, familiarity.evidence(logits, {"imagenet": marked})[1])
    assert changed == (cells < 5)


def test_a_dsr_has_them_only_where_they_are_evidence() -> None:
    names = ["encoder", "imagenet"]
    for chosen in (names, names[:1]):
        recipe = load_recipe("fast", [f"model.familiarity={chosen}".replace("'", '"')])
        with torch.random.fork_rng():
            model = build(recipe.model, with_refinement=False).eval()
        assert (model.imagenet is not None) == ("imagenet" in chosen)
        with torch.no_grad():
            examined = model.examine(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)))
        assert ("imagenet" in examined.features) == ("imagenet" in chosen)


def test_a_training_starts_from_the_shipped_weights_and_what_does_not_serve_is_left_out() -> None:
    recipe = load_recipe("fast")
    with torch.random.fork_rng():
        model = build(recipe.model, with_refinement=False)
    start_weights(model, recipe.model, None)
    assert model.imagenet is not None and model.familiarity is not None
    wanted = shipped().state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in model.imagenet.state_dict().items())
    model.keep(["encoder", "imagenet_high"])
    assert model.imagenet is not None and model.familiarity.sources == ("encoder", "imagenet_high")
    model.keep(["encoder"])
    assert model.imagenet is None and model.familiarity.sources == ("encoder",)


@pytest.mark.parametrize(("height", "width"), [(272, 256), (176, 400), (128, 128)])
def test_rows_of_blocks_lie_over_one_another_also_where_half_a_side_is_odd(
    height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ImageNetFeatures().eval()
    with torch.no_grad():
        found = network.blocks(torch.rand(1, 3, height, width))

    def where(side: int) -> torch.Tensor:
        """The middle of each cell, in pixels, in all channels."""
        rows, columns = (side * (torch.arange(-(-length // side)) + 0.5) for length in (height, width))
        return 1000 * rows[:, None] + columns

    sides = (2, 4, 8, 16, 16, 32, 32)
    assert [tuple(each.shape[-2:]) for each in found] == [tuple(where(side).shape) for side in sides]
    places = [where(side).expand(each.shape) for side, each in zip(sides, found, strict=True)]
    monkeypatch.setattr(network, "blocks", lambda image: places)
    features = network(torch.zeros(1, 3, height, width))
    inner = slice(3, -3)  # means of the outermost cells are of fewer
    torch.testing.assert_close(
        features[..., inner, inner], where(16)[inner, inner].expand_as(features[..., inner, inner])
    )
