"""bfloat16 in OpenVINO: the networks alone compute in it. Networks are the smallest there are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from deploy_helpers import remembering
from typer.testing import CliRunner

pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

import openvino

import flawmap
from flawmap import cli
from flawmap.bundle import Bundle, save_bundle
from flawmap.data.images import write_image
from flawmap.deploy import artefact, kept
from flawmap.deploy import export as module
from flawmap.deploy.agreement import Ranking
from flawmap.deploy.artefact import open_session, openvino_options, read_about
from flawmap.deploy.export import Exported, export
from flawmap.deploy.graph import RESIZE
from flawmap.deploy.mixed import MARK, in_float32
from flawmap.deploy.operations import CONVOLUTIONS, operations_of
from flawmap.devices import has_fast_bfloat16
from flawmap.errors import ConfigError, DataError
from flawmap.measure.threshold import choose_threshold

RANKS = Ranking(96, 0.97, 0.81, 0.82, 0.7, 0.7, 0.05, 0.01, 0.3)
needs_bfloat16 = pytest.mark.skipif(
    not has_fast_bfloat16(torch.device("cpu")), reason="the processor does not multiply bfloat16"
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe, model = remembering("encoder", "local", "detection", "imagenet")
    place = tmp_path_factory.mktemp("mixed") / "part.bundle"
    save_bundle(Bundle(model, recipe, choose_threshold([0.1] * 99, [0.1] * 99, 0.1), {}), place)
    return place


@pytest.fixture(scope="module")
def full(bundle: Path) -> Exported:
    return export(bundle, "openvino")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (1, 90, 120, 3), dtype=np.uint8)


def marked(file: Path) -> set[str]:
    """Names of the operations whose mark is in the file."""
    layers = ElementTree.parse(file).getroot().iterfind("layers/layer")
    return {str(layer.get("name")) for layer in layers if any(part.attrib == MARK for part in layer.iter("attribute"))}


def test_every_openvino_artefact_says_what_stays_in_float32(full: Exported) -> None:
    """Whoever opens it without pinning the precision still gets codes that are searched in float32."""
    model = openvino.Core().read_model(full.file)
    operations = operations_of(model)
    wanted = {name for name in in_float32(model) if operations.types[name] != "Result"}
    found = marked(full.file)
    assert found == wanted
    types = operations.types
    assert not {name for name in found if types[name] in CONVOLUTIONS}
    products = {name for name, kind in types.items() if kind == "MatMul"}
    assert len(products) > 8 and products <= found, "searches, distances and the resize"
    assert {name for name, kind in types.items() if kind == "CumSum"} <= found, "what levels the image"
    activations = {name for name, kind in types.items() if kind == "Relu"}
    assert len(activations - found) > 20, "the networks' own; clamping evidence looks the same"


@needs_bfloat16
def test_searches_and_distances_compute_in_float32_and_convolutions_do_not(full: Exported) -> None:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(full.file), "CPU", openvino_options(1, bfloat16=True))
    kinds: dict[str, set[str]] = {}
    for op in compiled.get_runtime_model().get_ordered_ops():
        if op.get_friendly_name().startswith(RESIZE):
            continue
        kind = op.get_rt_info()["layerType"].astype(str)
        kinds.setdefault(kind, set()).add(op.get_rt_info()["runtimePrecision"].astype(str))
    assert kinds["FullyConnected"] == {"f32"} and "MatMul" not in kinds
    assert kinds["CumSum"] == {"f32"}
    assert "bf16" in kinds["Convolution"]


@needs_bfloat16
def test_an_export_in_bfloat16_computes_in_it_and_says_so(
    bundle: Path, full: Exported, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "rank", lambda *_: RANKS)  # untrained weights have no ranking to keep
    made = export(bundle, "openvino", bfloat16=True)
    assert made.file.parent.name == "part.bfloat16.openvino"
    about = read_about(made.file)
    assert about == made.about
    assert about["precision"] == "bfloat16" and about["full_precision"] == ["code search", "familiarity"]
    assert about["check"]["rank"] == 0.97
    session, exact = open_session(made.file), open_session(full.file)
    lower, higher = session(photo), exact(photo)
    again = open_session(made.file, bfloat16=False)(photo)
    assert not np.array_equal(lower["map"], higher["map"])
    assert again["map"] == pytest.approx(higher["map"], abs=1e-4), "the networks are the same"
    assert float(np.median(np.abs(lower["map"] - higher["map"]))) < 0.05
    assert len(marked(made.file)) == len(marked(full.file))


@needs_bfloat16
def test_a_bfloat16_runtime_is_kept_beside_the_full_one(
    bundle: Path, tmp_path: Path, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module, "rank", lambda *_: RANKS)
    found: dict[str, Any] = {}
    for precision in ("float32", "bfloat16", "bfloat16"):
        said: list[str] = []
        inspector = flawmap.load(bundle, "cpu", runtime="openvino", precision=precision, say=said.append)
        assert len(said) == (precision not in found), "exported once"
        found[precision] = inspector.inspect(photo[0]).map
    assert not np.array_equal(found["float32"], found["bfloat16"])
    fastest = flawmap.load(bundle, "cpu", runtime="auto", precision="bfloat16", say=said.append)
    assert fastest.runtime.name in ("torch", "openvino")
    assert "onnx " not in said[-1]


def test_bfloat16_is_for_openvino_on_processors_that_multiply_it(
    bundle: Path, full: Exported, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"--bfloat16 is for OpenVINO"):
        export(bundle, "onnx", bfloat16=True)
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: False)
    with pytest.raises(ConfigError, match="does not multiply bfloat16"):
        export(bundle, "openvino", bfloat16=True)
    monkeypatch.setattr(kept, "has_fast_bfloat16", lambda device: False)
    with pytest.raises(ConfigError, match="does not multiply bfloat16, which would be slow; use float32"):
        flawmap.load(bundle, "cpu", runtime="openvino", precision="bfloat16")
    monkeypatch.setattr(artefact, "has_fast_bfloat16", lambda device: False)
    computed = open_session(full.file, bfloat16=True)(photo)["map"]
    assert np.array_equal(computed, open_session(full.file)(photo)["map"]), "then it is float32"


def test_bfloat16_is_not_judged_on_a_photo_or_two(
    bundle: Path, photo: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda device: True)
    for number in range(2):
        write_image(tmp_path / f"{number}.png", photo[0])
    with pytest.raises(DataError, match="holds 2 images; bfloat16 is judged on at least 8 good ones"):
        export(bundle, "openvino", tmp_path / "out", bfloat16=True, images=tmp_path)


@needs_bfloat16
def test_int8_and_bfloat16_go_together_by_the_command_line(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setattr(module, "rank", lambda *_: RANKS)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(module.FEWEST):
        image = np.random.default_rng(number).integers(80, 170, (64, 64, 3), dtype=np.uint8)
        write_image(photos / f"{number:02}.png", image)
    source = shutil.copytree(bundle, tmp_path / "part.bundle")
    how = ["--to", "openvino", "--int8", "--bfloat16", "--images", str(photos)]
    result = CliRunner().invoke(cli.app, ["export", str(source), *how])
    assert result.exit_code == 0, result.output
    file = tmp_path / "part.int8-bfloat16.openvino" / "part.int8-bfloat16.xml"
    about = read_about(file)
    assert (about["precision"], about["full_precision"]) == ("int8-bfloat16", ["code search", "familiarity"])
    model = openvino.Core().read_model(file)
    products = {op.get_friendly_name() for op in model.get_ops() if op.get_type_name() == "MatMul"}
    assert len(products) > 8 and products <= marked(file)
    assert any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
