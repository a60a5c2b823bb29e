from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import flawmap
from flawmap import bundle, cli, config
from flawmap.data.surfaces import write_sample_parts
from flawmap.model.discrete import DiscreteModel
from flawmap.train import run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TESTED = re.compile(r"<!-- tested -->\n```(\w*)\n(.*?)```", re.DOTALL)
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

    monkeypatch.setattr(config, "load_recipe", load_recipe)
    monkeypatch.setattr(bundle, "load_general", lambda _=None: general)
    monkeypatch.setattr(run, "load_general", lambda _=None: general)
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


def test_python_page_runs(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all([["train", "parts", "--out", "part.bundle", "--quiet"]])
    blocks = [
        block
        for kind, block in TESTED.findall((ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
        if kind == "python"
    ]
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), {})
    assert "value" in capsys.readouterr().out


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
