from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flawmap import cli, demo
from flawmap.config import load_recipe
from flawmap.errors import ConfigError
from flawmap.model.discrete import DiscreteModel
from flawmap.train import run


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(Path(__file__).with_name("tiny.toml"))
    sizes = recipe.model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(sizes.codes, sizes.code_length, sizes.discrete_width, sizes.discrete_hidden)
    monkeypatch.setattr(demo, "load_recipe", lambda *_: recipe)
    monkeypatch.setattr(run, "load_general", lambda _=None: general)
    for name, value in (("SIZE", 64), ("TRAIN", 12), ("GOOD", 3), ("BAD", 3)):
        monkeypatch.setattr(demo, name, value)


def test_demo_leaves_one_page_that_needs_nothing_else_and_the_metrics(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = demo.demo(tmp_path / "demo", quiet=True)
    assert page == tmp_path / "demo" / "index.html"
    text = page.read_text(encoding="utf-8")
    assert text.count("data:image/") >= 6 * 3  # image, map, regions; reconstructions where they keep enough detail
    assert 'src="http' not in text and 'href="http' not in text
    metrics = json.loads((tmp_path / "demo" / "metrics.json").read_text(encoding="utf-8"))
    assert 0 <= metrics["image_auroc"]["value"] <= 1
    shown = capsys.readouterr().out
    assert "image AUROC" in shown and "peak memory" in shown and str(page) in shown


def test_demo_can_be_run_again_in_the_same_folder(tmp_path: Path) -> None:
    demo.demo(tmp_path, quiet=True)
    first = (tmp_path / "part.bundle" / "weights.safetensors").read_bytes()
    (tmp_path / "index.html").write_text("old")
    demo.demo(tmp_path, quiet=True)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") != "old"
    assert (tmp_path / "part.bundle" / "weights.safetensors").read_bytes() == first


def test_the_installed_command_runs_the_demo(tmp_path: Path) -> None:
    told = CliRunner().invoke(cli.app, ["demo", str(tmp_path / "demo"), "--quiet"])
    assert told.exit_code == 0, told.output
    assert (tmp_path / "demo" / "index.html").exists() and "image AUROC" in told.output
    refused = CliRunner().invoke(cli.app, ["demo", str(tmp_path / "other"), "--surface", "marble"])
    assert refused.exit_code == 2 and "no surface marble" in refused.stderr


def test_demo_refuses_a_surface_it_cannot_draw(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="marble"):
        demo.demo(tmp_path, "marble")
