"""A training with a backbone of one's own, from the command line: what it keeps, what it refuses, what it exports."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import onnx
from networks import Plain, Pyramid, Squeezed, graph, written
from onnx import helper

from flawmap import cli
from flawmap.bundle import BACKBONE, WEIGHTS, load_bundle, save_general, sha256
from flawmap.bundle_facts import sealed
from flawmap.config import load_recipe
from flawmap.data.surfaces import write_sample_parts
from flawmap.deploy.agreement import compare
from flawmap.deploy.artefact import open_session
from flawmap.deploy.export import export
from flawmap.errors import BundleError, ConfigError
from flawmap.model.discrete import DiscreteModel
from flawmap.model.onnx_backbone import BackboneFeatures, OnnxBackbone, Program, resampled
from flawmap.train.run import own_backbone

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = [
    "image.width=96",
    "model.familiarity=['encoder', 'imagenet', 'imagenet_high']",
    "model.memory=16",
    "model.norm=batch",
    "refine.steps=0",
    "threshold.calibration=cross-fitted",
]


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr if result.exit_code else result.output


def refused(*arguments: object) -> str:
    """The one line of a command that ends with exit code 2."""
    code, said = run(*arguments)
    lines = [line for line in said.splitlines() if line.startswith("flawmap: ")]
    assert code == 2 and len(lines) == 1 and said.splitlines()[-1] == lines[0], said
    return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with parts, a general model, net.onnx, and part.bundle that was trained with it."""
    folder = tmp_path_factory.mktemp("backbone")
    write_sample_parts(folder / "parts", "brushed-metal", 64, 12, 4, 4, 0)
    sizes = load_recipe(TINY).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(sizes.codes, sizes.code_length, sizes.discrete_width, sizes.discrete_hidden)
        save_general(general, folder / "general.safetensors")
        written(Squeezed(), folder / "net.onnx", size=(64, 64))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code, said = run(*training("part.bundle"))
    assert code == 0, said
    assert "net.onnx: 16 channels at 1/8, 24 channels at 1/16; pixels as RGB, mean 0, 0, 0" in said
    return folder


def training(out: str, *settings: str, net: str = "net.onnx", config: object = TINY) -> list[object]:
    chosen = [*(SETTINGS if config == TINY else []), *([f"model.backbone={net}"] if net else []), *settings]
    flags = [word for setting in chosen for word in ("--set", setting)]
    return ["train", "parts", "--out", out, "--config", config, "--general", "general.safetensors", *flags]


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the place to change things in, which is the current folder."""
    shutil.copytree(place, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    yield tmp_path / "here"


def test_the_bundle_says_which_file_it_was_and_how_it_takes_pixels(place: Path) -> None:
    bundle = load_bundle(place / "part.bundle")
    known = bundle.provenance["backbone"]
    assert (known["file"], known["channels"], known["strides"]) == ("net.onnx", [16, 24], [8, 16])
    assert known["sha256"] == bundle.recipe.model.backbone_sha256 and len(known["sha256"]) == 64
    assert bundle.recipe.model.backbone == "net.onnx" and bundle.recipe.model.backbone_order == "rgb"
    assert isinstance(bundle.model.imagenet, BackboneFeatures)
    assert bundle.model.imagenet.low_channels == 24 and bundle.model.imagenet.high_channels == 16 + 24


def test_inspecting_needs_neither_the_file_nor_onnx(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run("inspect", "part.bundle", "parts/test")
    (here / "net.onnx").unlink()
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert before[0] == 0 and run("inspect", "part.bundle", "parts/test") == before


def test_features_are_those_of_the_file_up_to_half_precision(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    bundle = load_bundle(Path("part.bundle"))
    backbone = own_backbone(bundle.recipe)
    assert backbone is not None and isinstance(bundle.model.imagenet, BackboneFeatures)
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    wanted = BackboneFeatures(backbone)(image)
    torch.testing.assert_close(bundle.model.imagenet(image), wanted, rtol=0.01, atol=0.01)
    assert not torch.equal(bundle.model.imagenet(image), wanted), "rounded"


def test_a_training_is_the_same_again_by_the_bundles_recipe_unless_the_file_changed(here: Path) -> None:
    code, said = run(*training("again.bundle", net="", config="part.bundle/recipe.toml"))
    assert code == 0, said
    for name in (WEIGHTS, BACKBONE):
        assert (here / "again.bundle" / name).read_bytes() == (here / "part.bundle" / name).read_bytes()
    written(Squeezed(), here / "net.onnx")
    said = refused(*training("third.bundle", net="", config="part.bundle/recipe.toml"))
    assert "net.onnx changed" in said and "model.backbone_sha256" in said
    assert not (here / "third.bundle.run").exists()


def test_a_training_is_not_resumed_with_a_changed_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flawmap.train.run.train_detection", stopped)
        assert run(*training("new.bundle"))[0] == 130
    before = (here / "net.onnx").read_bytes()
    written(Squeezed(), here / "net.onnx")
    said = refused(*training("new.bundle"), "--resume")
    assert "net.onnx changed since new.bundle.run was started with it; put back the file it was" in said
    (here / "net.onnx").write_bytes(before)
    assert run(*training("new.bundle"), "--resume")[0] == 0


def test_photos_are_not_taken_in_beside_a_changed_file(here: Path) -> None:
    arguments = ("refine", "part.bundle", "--good", "parts/test/good", "--out")
    code, said = run(*arguments, "more.bundle")
    assert code == 0, said
    before, after = (load_bundle(here / name) for name in ("part.bundle", "more.bundle"))
    assert isinstance(before.model.imagenet, BackboneFeatures) and isinstance(after.model.imagenet, BackboneFeatures)
    assert after.model.imagenet.backbone.program == before.model.imagenet.backbone.program
    written(Squeezed(), here / "net.onnx")
    assert "net.onnx changed since part.bundle was trained with it" in refused(*arguments, "third.bundle")
    (here / "net.onnx").unlink()
    assert run(*arguments, "third.bundle")[0] == 0, "a bundle needs the file no more"


def two_inputs() -> onnx.ModelProto:
    model = graph("y = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image)", {})
    model.graph.input.append(helper.make_tensor_value_info("mask", 1, ["N", 1, "H", "W"]))
    return model


def of_size(*shape: object) -> onnx.ModelProto:
    model = graph("y = AveragePool<kernel_shape=[8,8], strides=[8,8]>(image)", {})
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", 1, shape))
    return model


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (two_inputs(), "bad.onnx has 2 inputs (image, mask)"),
        (of_size(1, 3, 224, 224), "bad.onnx takes images of 224x224 pixels, and the network's are 64x96"),
        (of_size("N", 1, "H", "W"), "bad.onnx takes image (N, 1, H, W) of float"),
        (graph("g = GlobalAveragePool(image) y = Flatten(g)", {}), "bad.onnx: its output y is of shape (1, 3), not"),
        (graph("y = Hardmax(image)", {}), "bad.onnx has the operator Hardmax"),
    ],
    ids=["several inputs", "another size", "another shape", "no feature map", "an operator"],
)
def test_a_file_that_is_no_backbone_is_refused_before_the_training(
    model: onnx.ModelProto, said: str, here: Path
) -> None:
    onnx.save(model, here / "bad.onnx")
    assert said in refused(*training("new.bundle", net="bad.onnx"))
    assert not [*here.glob("new.bundle*")]


def test_what_else_a_user_may_get_wrong_is_one_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no file nowhere.onnx" in refused(*training("new.bundle", net="nowhere.onnx"))
    assert 'add "imagenet" to it' in refused(*training("new.bundle", "model.familiarity=['encoder']"))
    assert "three numbers" in refused(*training("new.bundle", "model.backbone_mean=[0.5]"))
    assert "leave out model.backbone" in refused(
        "pretrain", "parts/train", "--out", "g.safetensors", "--config", TINY, "--set", "model.backbone=net.onnx"
    )
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install 'flawmap[export]'" in refused(*training("new.bundle"))


def test_suspects_of_photos_are_found_by_the_backbone(here: Path) -> None:
    chosen = ("model.backbone=net.onnx", "image.height=64", "image.width=64", "image.aspect=fixed")
    arguments = ["suspects", "parts", "--device", "cpu", *(word for each in chosen for word in ("--set", each))]
    code, said = run(*arguments)
    assert code == 0 and said.count("parts/train/good") == 12, said
    code, other = run(*arguments, "--set", "model.backbone_mean=[0.9, 0.1, 0.1]")
    assert code == 0 and other != said
    written(Plain(), here / "net.onnx")
    assert "net.onnx changed" in refused("suspects", "parts", "--config", "part.bundle/recipe.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "cannot be read: No such file"),
        ("{", "cannot be read: Expecting"),
        ("{}", "cannot be read: 'steps'"),
        ('{"steps": [["Hardmax", ["image"], ["y"], {}]]}', "the operator Hardmax, which this flawmap does not know"),
        ('{"steps": []}', "cannot be read: 'weights'"),
    ],
)
def test_a_bundle_whose_backbone_is_damaged_is_refused(text: str | None, said: str, here: Path) -> None:
    file, note = here / "part.bundle" / BACKBONE, here / "part.bundle" / "bundle.json"
    file.unlink()
    if text is not None:
        file.write_text(text)
        with pytest.raises(BundleError, match=r"backbone\.json is not the file that bundle\.json describes"):
            load_bundle(here / "part.bundle")
        facts = json.loads(note.read_text())
        note.write_text(sealed(facts | {"backbone_json_sha256": sha256(file)}, note.parent))
    with pytest.raises(BundleError, match=said):
        load_bundle(here / "part.bundle")


def test_a_backbone_is_not_asked_for_where_no_features_of_it_count() -> None:
    assert own_backbone(load_recipe("fast")) is None
    with pytest.raises(ConfigError, match=r"model\.familiarity does not name"):
        own_backbone(load_recipe("fast", ["model.familiarity=['local']", "model.backbone=net.onnx"]))


# exports


@pytest.mark.parametrize(("runtime", "dynamic"), [("onnx", True), ("openvino", False)])
def test_an_artefact_holds_the_backbone_and_finds_what_pytorch_finds(
    runtime: str, dynamic: bool, place: Path, tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("openvino")
    out = tmp_path / ("part.onnx" if runtime == "onnx" else "part.openvino")
    made = export(place / "part.bundle", runtime, out, dynamic_batch=dynamic)
    photo = np.random.default_rng(2).integers(0, 256, (133, 201, 3), dtype=np.uint8)
    known = load_bundle(place / "part.bundle")
    session = open_session(made.file)
    check = compare(session, known, [photo, photo[:64, :96]])
    assert check.fault == "" and max(check.map, check.score) < 1e-4
    assert isinstance(known.model.imagenet, BackboneFeatures)
    backbone = known.model.imagenet.backbone
    with torch.no_grad():
        for name in backbone.program.weights:
            backbone.get_buffer(name).mul_(1.1)
    assert "differs" in compare(session, known, [photo]).fault, "the backbone has a say"


def test_a_runtime_is_exported_on_first_use(here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found = []
    for name in ("torch", "onnx"):
        lines = run("inspect", "part.bundle", "parts/test", "--runtime", name)[1].splitlines()
        found.append([(words[0], words[-1]) for words in map(str.split, lines) if words[0] in ("good", "defective")])
    assert len(found[0]) == 8 and found[0] == found[1]


def test_it_is_quantized_with_the_rest(place: Path, tmp_path: Path) -> None:
    for package in ("onnxscript", "nncf"):
        pytest.importorskip(package)
    from flawmap.deploy.graph import inspection_graph, network_graph
    from flawmap.deploy.quantize import quantize_onnx

    bundle = load_bundle(place / "part.bundle")
    whole = inspection_graph(network_graph(bundle.model, 64, 96, exact=False), bundle)
    photos = [np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8) for seed in range(4)]
    count = sum(node.op_type == "QuantizeLinear" for node in quantize_onnx(whole, photos).graph.node)
    assert isinstance(bundle.model.imagenet, BackboneFeatures)
    convolutions = [step for step in bundle.model.imagenet.backbone.program.steps if step.operator == "Conv"]
    assert count >= len(convolutions)


# features on one grid

WEIGHTS_BETWEEN = torch.tensor([[9.0, 3.0], [3.0, 1.0]]) / 16  # of the cells around a quarter of the first of them


def net_of(strides: tuple[int, ...]) -> OnnxBackbone:
    channels = tuple(range(1, 1 + len(strides)))
    return OnnxBackbone(Program((), {}, {}, ("image",) * len(strides), channels, strides))


@pytest.mark.parametrize(
    ("strides", "low", "high"),
    [
        ((4, 8, 16, 32), [2, 3], [1, 2]),
        ((16, 16), [0, 1], [0, 1]),
        ((4, 8, 8), [1, 2], [1, 2]),
        ((14,), [0], [0]),
        ((4, 32), [1], [0]),
        ((2, 32), [1], [1]),
        ((2, 4, 32, 32), [2, 3], [1]),
        ((4,), [0], [0]),
    ],
)
def test_maps_of_each_resolution_are_used_else_the_coarsest_and_the_nearest(
    strides: tuple[int, ...], low: list[int], high: list[int]
) -> None:
    features = BackboneFeatures(net_of(strides))
    assert (features.low, features.high) == (low, high)
    channels = features.backbone.channels
    assert features.low_channels == sum(channels[number] for number in low)
    assert features.high_channels == sum(channels[number] for number in high)


@pytest.mark.parametrize(("height", "width"), [(272, 256), (176, 400), (128, 128)])
@pytest.mark.parametrize("cut", [False, True], ids=["a cell more", "whole cells alone"])
def test_maps_lie_over_one_another_also_where_half_a_side_is_odd(height: int, width: int, cut: bool) -> None:
    def where(side: int) -> torch.Tensor:
        """The middle of each cell, in pixels."""
        count = [length // side if cut else -(-length // side) for length in (height, width)]
        rows, columns = (side * (torch.arange(number) + 0.5) for number in count)
        return (1000 * rows[:, None] + columns)[None, None]

    fine = where(16)
    found = resampled(where(32), 32, 16, fine.shape[-2:])
    assert found.shape == fine.shape
    inner = (..., slice(2, -3), slice(2, -3))
    torch.testing.assert_close(found[inner], fine[inner])


def test_a_map_of_no_whole_factor_covers_the_same_image() -> None:
    cells = torch.arange(16.0).repeat(16, 1)[None, None]
    found = resampled(cells, 24, 16, (24, 24))
    assert (
        found.shape[-2:] == (24, 24) and float(found[0, 0, 0, -1]) == 15 and float(found.mean()) == pytest.approx(7.5)
    )


def test_features_are_means_over_neighbours_of_every_map_of_low_resolution(tmp_path: Path) -> None:
    from flawmap.backbones.read import read_backbone
    from flawmap.config import ModelSettings

    torch.manual_seed(0)
    file = written(Pyramid(), tmp_path / "net.onnx")
    backbone = read_backbone(ModelSettings(backbone=str(file)), (64, 96))
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))
    features, maps = BackboneFeatures(backbone), backbone(image)
    low, high = features(image), features.high_resolution(features.blocks(image))
    assert low.shape == (1, 32, 4, 6) and high.shape == (1, 40, 8, 12)
    torch.testing.assert_close(low[..., 1, 2], maps[1][..., 0:3, 1:4].mean((2, 3)))
    assert torch.equal(high[:, :8], maps[0])
    torch.testing.assert_close(high[:, 8:, 3, 3], (maps[1][..., 1:3, 1:3] * WEIGHTS_BETWEEN).sum((2, 3)))
