from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from flawmap import cli
from flawmap.bundle import load_bundle, save_general
from flawmap.config import load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.surfaces import write_sample_parts
from flawmap.model.discrete import DiscreteModel

TINY = Path(__file__).parents[1] / "tiny.toml"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module", params=["resize", "tile"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    write_sample_parts(folder / "parts", "brushed-metal", 96, 30, 12, 0, 0)
    sizes = load_recipe(TINY).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(sizes.codes, sizes.code_length, sizes.discrete_width, sizes.discrete_hidden)
    save_general(general, folder / "general.safetensors")
    how = ["--config", TINY, "--general", folder / "general.safetensors", "--set", f"image.policy={request.param}"]
    made = run("train", folder / "parts", "--out", folder / "part.bundle", *how, "--quiet", "--layout", "mvtec")
    assert made.exit_code == 0, made.output
    dark = folder / "dark"
    dark.mkdir()
    for path in sorted((folder / "parts" / "test" / "good").glob("*.png")):
        write_image(dark / path.name, np.rint(255 * 0.5 * read_image(path)).astype(np.uint8))
    return folder


def test_good_photos_are_like_those_trained_on(place: Path) -> None:
    result = run("check", place / "part.bundle", place / "parts" / "test" / "good")
    assert result.exit_code == 0, result.output
    assert "the 12 photos are like the good ones trained on" in result.stdout


def test_dark_photos_have_drifted_and_the_exit_code_says_so(place: Path) -> None:
    result = run("check", place / "part.bundle", place / "dark", "--out", place / "check.csv", "--overwrite")
    assert result.exit_code == 1, result.output
    assert "12 of 12 photos are odd by themselves" in result.stdout
    assert "unlike the good ones trained on: darker" in result.stdout or "darker (brightness" in result.stdout
    with (place / "check.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    good = load_bundle(place / "part.bundle").photos
    assert good is not None
    assert max(float(row["brightness"]) for row in rows) < good.figures[:, 0].min()
    assert all("darker" in row["odd"] for row in rows)


def test_a_broken_photo_is_named_and_the_others_are_checked(place: Path, tmp_path: Path) -> None:
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes((place / "parts" / "test" / "good" / f"00{number}.png").read_bytes())
    (tmp_path / "3.png").write_bytes(b"broken")
    result = run("check", place / "part.bundle", tmp_path)
    assert result.exit_code == 2
    assert "1 of 6 images could not be read" in result.stderr
    assert "3.png" in result.stderr
    assert "the 5 photos are like" in result.stdout


def test_without_photos_what_is_known_is_shown(place: Path) -> None:
    result = run("check", place / "part.bundle")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == "30 good photos:"
    assert "brightness" in result.stdout


def test_few_photos_tell_no_drift(place: Path) -> None:
    result = run("check", place / "part.bundle", place / "dark" / "000.png")
    assert result.exit_code == 0
    assert "fewer than 5 photos tell no drift" in result.stdout
    assert "odd      " in result.stdout


def test_a_bundle_that_does_not_know_says_what_to_do(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place / "part.bundle", tmp_path / "old.bundle")
    note = (tmp_path / "old.bundle" / "bundle.json").read_text()
    old = note.replace('"photos_sha256"', '"unknown"').replace('"facts_sha256"', '"also unknown"')
    (tmp_path / "old.bundle" / "bundle.json").write_text(old)
    result = run("check", tmp_path / "old.bundle", place / "dark")
    assert result.exit_code == 2
    assert "train it again" in result.stderr
    (tmp_path / "old.bundle" / "bundle.json").write_text(note)
    (tmp_path / "old.bundle" / "photos.safetensors").write_bytes(b"other")
    damaged = run("check", tmp_path / "old.bundle", place / "dark")
    assert damaged.exit_code == 2
    assert "photos.safetensors is not the file" in damaged.stderr
