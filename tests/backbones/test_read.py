"""Files that are backbones are read as ONNX Runtime reads them; others are refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
from networks import (
    Attention,
    Plain,
    Pyramid,
    Squeezed,
    Windows,
    by_onnxruntime,
    graph,
    normal,
    random,
    written,
)
from onnx import helper
from torch import Tensor, nn

from flawmap.backbones import probe
from flawmap.backbones.pixels import Pixels, pixels_of
from flawmap.backbones.probe import stride_of
from flawmap.backbones.read import check_unchanged, described, noted, read_backbone, summary
from flawmap.config import ModelSettings, load_recipe
from flawmap.errors import ConfigError
from flawmap.model.onnx_backbone import OnnxBackbone

HEIGHT, WIDTH = 64, 96


def settings(file: Path, **more: object) -> ModelSettings:
    return ModelSettings(backbone=str(file), **more)


def read(file: Path, **more: object) -> OnnxBackbone:
    return read_backbone(settings(file, **more), (HEIGHT, WIDTH))


def refused(file: Path, **more: object) -> str:
    with pytest.raises(ConfigError) as raised:
        read(file, **more)
    message = str(raised.value)
    assert "\n" not in message and file.name in message
    return message


def attention(token: bool) -> Callable[[], nn.Module]:
    return lambda: Attention(cells=HEIGHT * WIDTH // 256, token=token)


@pytest.fixture(autouse=True)
def weights() -> None:
    torch.manual_seed(0)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "plain": (Plain, (8, 16, 32), (12, 16, 20)),
    "squeezed": (Squeezed, (8, 16), (16, 24)),
    "attention": (attention(True), (16,), (24,)),
    "attention without a token": (attention(False), (16,), (24,)),
    "pyramid": (Pyramid, (8, 16), (8, 32)),
    "windows": (Windows, (8, 16), (16, 32)),
}


@pytest.mark.parametrize(
    ("opset", "open_axes"), [(13, ""), (13, "batch height width"), (16, "batch"), (18, "height width"), (20, "batch")]
)
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_are_those_of_onnx_runtime_for_every_opset(name: str, opset: int, open_axes: str, tmp_path: Path) -> None:
    make, strides, channels = NETWORKS[name]
    file = written(make(), tmp_path / "net.onnx", opset=opset, open_axes=open_axes)
    if name == "attention" and not open_axes:
        assert "export it for any number of images" in refused(file)
        return
    backbone = read(file)
    assert (backbone.strides, backbone.channels) == (strides, channels)
    assert backbone.size == (None if "height" in open_axes else (HEIGHT, WIDTH))
    image = random(1, 3, HEIGHT, WIDTH)
    wanted = sorted(by_onnxruntime(file, image.flip(1)), key=lambda each: -each.shape[-1])
    for found, known in zip(backbone(image), wanted, strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)
    both = backbone(torch.cat([random(1, 3, HEIGHT, WIDTH, seed=1), image]))
    for two, one in zip(both, wanted, strict=True):
        torch.testing.assert_close(two[1:], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["squeezed", "attention without a token"])
def test_what_pytorchs_new_exporter_writes_is_read_with_the_weights_beside_it(name: str, tmp_path: Path) -> None:
    file = written(NETWORKS[name][0](), tmp_path / "net.onnx", open_axes="", new=True)
    beside = tmp_path / "net.onnx.data"
    assert beside.is_file()
    backbone = read(file)
    assert backbone.program.sha256 == hashlib.sha256(file.read_bytes() + beside.read_bytes()).hexdigest()
    image = random(1, 3, HEIGHT, WIDTH)
    for found, known in zip(backbone(image)[::-1], by_onnxruntime(file, image.flip(1)), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)
    beside.rename(tmp_path / "elsewhere")
    assert "has its weights in net.onnx.data, which is not beside it" in refused(file)


def test_an_image_of_another_size_is_taken_where_the_graph_takes_it(tmp_path: Path) -> None:
    file = written(Pyramid(), tmp_path / "net.onnx")
    backbone, image = read(file), random(1, 3, 128, 160)
    for found, known in zip(backbone(image), by_onnxruntime(file, image.flip(1)), strict=True):
        torch.testing.assert_close(found, known, rtol=1e-4, atol=1e-5)


def test_a_backbone_is_checked_for_every_size_that_it_is_to_take(tmp_path: Path) -> None:
    file, sizes = written(Plain(), tmp_path / "net.onnx"), ((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH))
    assert read_backbone(settings(file), *sizes).strides == (8, 16, 32)
    written(NETWORKS["attention"][0](), file)
    read_backbone(settings(file), sizes[0])
    with pytest.raises(ConfigError, match=r"net\.onnx cannot take an image of 128x192 pixels: its operator Add fails"):
        read_backbone(settings(file), *sizes)
    written(Plain(), file, open_axes="")
    with pytest.raises(ConfigError, match=r"takes images of 64x96 pixels, and the network's are 128x192"):
        read_backbone(settings(file), *sizes)
    onnx.save(graph('y = Resize<mode="linear">(image, , , s)', {"s": np.array([1, 3, 8, 12])}), file)
    with pytest.raises(ConfigError, match=r"at 1/8 of an image of 64x96 pixels and at 1/16 of one of 128x192"):
        read_backbone(settings(file), *sizes)


def test_the_files_hash_is_noted_and_another_file_refused(tmp_path: Path) -> None:
    file = written(Plain(), tmp_path / "net.onnx")
    backbone = read(file)
    assert backbone.program.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    known = noted(settings(file), backbone)
    assert known.backbone_sha256 == backbone.program.sha256
    again = read_backbone(known, (HEIGHT, WIDTH))
    assert again.program == backbone.program
    check_unchanged(known, "part.bundle")
    written(Plain(), file)
    with pytest.raises(ConfigError, match=r"net\.onnx changed: its SHA-256 is [0-9a-f]{12}…, .* give the file it was"):
        read_backbone(known, (HEIGHT, WIDTH))
    with pytest.raises(ConfigError, match=r"net\.onnx changed since part\.bundle was trained with it"):
        check_unchanged(known, "part.bundle")
    file.write_bytes(b"no ONNX any more")
    with pytest.raises(ConfigError, match="changed since"):
        check_unchanged(known, "part.bundle")
    file.unlink()
    check_unchanged(known, "part.bundle")


# pixels


def test_pixels_are_given_by_settings_else_by_metadata_else_as_they_are() -> None:
    metadata = {"mean": "[0.4, 0.5, 0.6]", "std": "0.2 0.3 0.4", "order": "BGR"}
    assert pixels_of(ModelSettings(), {}, "net.onnx") == Pixels((0, 0, 0), (1, 1, 1), "rgb")
    assert pixels_of(ModelSettings(), metadata, "net.onnx") == Pixels((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), "bgr")
    chosen = ModelSettings(backbone_mean=(0.1, 0.2, 0.3), backbone_deviation=(0.5, 0.6, 0.7), backbone_order="rgb")
    assert pixels_of(chosen, metadata, "net.onnx") == Pixels((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), "rgb")
    assert pixels_of(ModelSettings(), {"mean": "0.5", "deviation": "0.25"}, "n").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"mean": "123.7, 116.3, 103.5"}, "mean = 123.7, 116.3, 103.5 in its metadata, and three numbers up to 1"),
        ({"std": "0, 0.2, 0.2"}, r"std = .*set model\.backbone_deviation"),
        ({"mean": "one, two, three"}, r"set model\.backbone_mean"),
        ({"deviation": "0.2, 0.2"}, "three numbers"),
        ({"order": "yuv"}, r"order = yuv .* set model\.backbone_order to rgb or bgr"),
    ],
)
def test_metadata_that_is_not_understood_is_refused(metadata: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        pixels_of(ModelSettings(), metadata, "net.onnx")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.backbone_mean=[0.5, 0.5]", "three numbers"),
        ("model.backbone_deviation=[0.2, 0.0, 0.2]", "no number of it may be 0"),
        ("model.backbone_mean=[124, 116, 104]", "less than or equal to 1"),
        ("model.backbone_order=gbr", "'rgb' or 'bgr'"),
        ("model.backbone_sha256=abc", "pattern"),
    ],
)
def test_settings_of_pixels_that_cannot_be_are_refused(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_recipe("fast", [setting])


def test_a_network_sees_its_own_order_of_channels_normalised(tmp_path: Path) -> None:
    model = graph("y = AveragePool<kernel_shape=[4,4], strides=[4,4]>(image)", {})
    helper.set_model_props(model, {"mean": "0.1, 0.2, 0.3", "deviation": "0.5, 0.25, 1"})
    onnx.save(model, tmp_path / "net.onnx")
    blue, green, red = 0.9, 0.6, 0.4
    image = torch.tensor([blue, green, red]).view(1, 3, 1, 1).expand(1, 3, HEIGHT, WIDTH)
    rgb = read(tmp_path / "net.onnx")(image)[0][0, :, 0, 0]
    torch.testing.assert_close(rgb, torch.tensor([(red - 0.1) / 0.5, (green - 0.2) / 0.25, (blue - 0.3) / 1]))
    bgr = read(tmp_path / "net.onnx", backbone_order="bgr")(image)[0][0, :, 0, 0]
    torch.testing.assert_close(bgr, torch.tensor([(blue - 0.1) / 0.5, (green - 0.2) / 0.25, (red - 0.3) / 1]))


def test_what_was_read_is_said_in_one_line(tmp_path: Path) -> None:
    file = written(Plain(), tmp_path / "net.onnx")
    backbone = read(file, backbone_mean=(0.485, 0.456, 0.406))
    line = "12 channels at 1/8, 16 channels at 1/16, 20 channels at 1/32; pixels as RGB, mean 0.485, 0.456, 0.406, "
    assert summary("net.onnx", backbone) == f"net.onnx: {line}deviation 1, 1, 1"
    assert json.loads(json.dumps(described("a/net.onnx", backbone)))["file"] == "net.onnx"


# what is no backbone


def saved(folder: Path, body: str, *, outputs: str = "y", **weights: np.ndarray) -> Path:
    onnx.save(graph(body, weights, outputs=outputs), folder / "net.onnx")
    return folder / "net.onnx"


def test_a_file_that_is_missing_or_no_onnx_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    assert "there is no file" in refused(file)
    file.write_bytes(b"\x08\x96weights of something else")
    assert "not a sound ONNX file" in refused(file)
    file.write_bytes(b"")
    assert "not a sound ONNX file" in refused(file)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_without_the_extra_one_line_says_how_to_install_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(Plain(), tmp_path / "net.onnx")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"needs {name}, which is not here; pip install 'flawmap\[export\]'"):
        read(file)


def test_several_inputs_or_none_are_refused(tmp_path: Path) -> None:
    model = graph("y = AveragePool<kernel_shape=[4,4], strides=[4,4]>(image)", {})
    model.graph.input.append(helper.make_tensor_value_info("mask", 1, ["N", 1, "H", "W"]))
    onnx.save(model, tmp_path / "net.onnx")
    assert "has 2 inputs (image, mask); a backbone has one, the image (N, 3, H, W)" in refused(tmp_path / "net.onnx")
    del model.graph.input[:]
    model.graph.initializer.append(onnx.numpy_helper.from_array(normal(1, 3, 8, 8), "image"))
    onnx.save(model, tmp_path / "net.onnx")
    assert "has 0 inputs (none)" in refused(tmp_path / "net.onnx")


@pytest.mark.parametrize(
    ("kind", "shape", "said"),
    [
        (1, ["N", 1, "H", "W"], "takes image (N, 1, H, W) of float; a backbone takes images (N, 3, H, W) of float"),
        (1, ["N", "H", "W", 3], "takes image (N, H, W, 3) of float"),
        (1, ["N", 3, 64], "takes image (N, 3, 64) of float"),
        (2, ["N", 3, "H", "W"], "of uint8; a backbone takes images"),
        (1, [1, 3, 224, 224], "takes images of 224x224 pixels, and the network's are 64x96; export it for any height"),
        (1, [1, 3, "H", 128], "takes images of 64x128 pixels, and the network's are 64x96"),
    ],
)
def test_an_input_of_another_shape_is_refused(kind: int, shape: list[object], said: str, tmp_path: Path) -> None:
    model = graph("c = Cast<to=1>(image) y = AveragePool<kernel_shape=[4,4], strides=[4,4]>(c)", {})
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, shape))
    onnx.save(model, tmp_path / "net.onnx")
    assert said in refused(tmp_path / "net.onnx")


POOLED = "y = AveragePool<kernel_shape=[4,4], strides=[4,4]>(image)"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (f"{POOLED} g = GlobalAveragePool(image) z = Flatten(g)", "its output z is of shape (1, 3), not a feature map"),
        (f"{POOLED} z = GlobalAveragePool(image)", "its output z has 1x1 cells for an image of 64x96 pixels"),
        (f"{POOLED} z = AveragePool<kernel_shape=[4,2], strides=[4,2]>(image)", "its output z has 16x48 cells"),
        (f"{POOLED} z = Transpose<perm=[0,2,3,1]>(image)", "its output z has 96x3 cells"),
        (f"{POOLED} z = Shape(image)", "its output z is of shape (1, 3, 64, 96), not a feature map"),
        (f"{POOLED} z = Identity(image)", "its output z does not follow from the image; a feature map is needed"),
        (f"{POOLED} z = Hardmax(image)", "has the operator Hardmax"),
    ],
)
def test_an_output_that_is_no_feature_map_is_refused(body: str, said: str, tmp_path: Path) -> None:
    model = graph(body, {}, outputs="y z")
    if "Shape(" in body:
        model.graph.output[1].type.tensor_type.elem_type = 7
    onnx.save(model, tmp_path / "net.onnx")
    assert said in refused(tmp_path / "net.onnx")


def test_maps_that_are_all_as_fine_as_the_image_are_refused(tmp_path: Path) -> None:
    assert "its coarsest map is at 1/2" in refused(saved(tmp_path, POOLED.replace("4", "2")))


def test_a_variant_of_an_operator_that_is_not_translated_is_refused(tmp_path: Path) -> None:
    body = 's = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(image, , f) ' + POOLED.replace(
        "(image)", "(s)"
    )
    message = refused(saved(tmp_path, body, f=np.array([1, 1, 2, 2], np.float32)))
    assert "its operator Resize is not translated as it stands there (linear, asymmetric)" in message


def test_images_that_mix_in_a_batch_are_refused(tmp_path: Path) -> None:
    mixed = f"m = ReduceMean(image, a) c = Sub(image, m) {POOLED.replace('(image)', '(c)')}"
    assert "in evaluation mode" in refused(saved(tmp_path, mixed, a=np.array([0], np.int64)))


def test_a_translation_that_finds_something_else_than_onnx_runtime_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(Plain(), tmp_path / "net.onnx")
    prepared = OnnxBackbone.prepared
    monkeypatch.setattr(probe.OnnxBackbone, "prepared", lambda self, image: 1.01 * prepared(self, image))
    read(file)  # both see the same pixels
    monkeypatch.setitem(
        probe.OnnxBackbone.perform.__globals__["OPERATORS"], "LeakyRelu", lambda inputs, attributes: inputs[0] * 1.01
    )
    assert "PyTorch finds other features than ONNX Runtime at 1/8" in refused(file)


@pytest.mark.parametrize(
    ("size", "cells", "stride"),
    [
        ((256, 256), (16, 16), 16),
        ((224, 448), (16, 32), 14),
        ((272, 256), (9, 8), 32),
        ((272, 272), (9, 9), 32),
        ((272, 256), (8, 8), 32),
        ((272, 400), (17, 25), 16),
        ((256, 256), (16, 8), 0),
        ((256, 256), (7, 7), 0),
    ],
)
def test_a_stride_follows_from_sizes(size: tuple[int, int], cells: tuple[int, int], stride: int) -> None:
    assert stride_of(*size, *cells) == stride


def test_a_stride_of_sides_that_are_no_multiples_of_it_is_read(tmp_path: Path) -> None:
    file = written(Plain(), tmp_path / "net.onnx")
    assert read_backbone(settings(file), (80, 112)).strides == (8, 16, 32)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_that_a_backbone_computes_lies_where_it_lies(name: str, tmp_path: Path) -> None:
    backbone = read(written(NETWORKS[name][0](), tmp_path / "net.onnx")).to("meta")
    maps = backbone(torch.empty(2, 3, HEIGHT, WIDTH, device="meta"))  # a tensor made on the CPU would not mix with it
    assert [each.device.type for each in maps] == ["meta"] * len(backbone.strides)


def test_a_backbone_is_the_same_wherever_its_file_lies(tmp_path: Path) -> None:
    file = written(Plain(), tmp_path / "net.onnx")
    shutil.copyfile(file, tmp_path / "other.onnx")
    assert read(file).program == read(tmp_path / "other.onnx").program


def test_maps_are_finite_in_bfloat16_too(tmp_path: Path) -> None:
    backbone, image = read(written(Windows(), tmp_path / "net.onnx")), random(1, 3, HEIGHT, WIDTH)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        lower: list[Tensor] = backbone(image)
    for found, known in zip(lower, backbone(image), strict=True):
        assert (found.float() - known).abs().max() < 0.1 * known.abs().max()
