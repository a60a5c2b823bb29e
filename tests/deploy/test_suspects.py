"""Good photos that look defective are listed first."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flawmap import cli
from flawmap.bundle import Bundle, build, load_bundle, save_bundle
from flawmap.config import load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.deploy.suspects import Suspect, find_photos, suspects
from flawmap.errors import BundleError, DataError
from flawmap.model.discrete import DiscreteModel
from flawmap.train.run import train

TINY = Path(__file__).parents[1] / "tiny.toml"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good parts of which one has a black bar."""
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, SURFACES[0], size=96, train=14, good=1, bad=1, seed=0)
    photo = sorted(sample.image for sample in read_layout(folder).train_good)[3]
    pixels = read_image(photo)
    pixels[30:60, 20:80] = 0
    write_image(photo, (255 * pixels).round().astype("uint8"))
    return folder


@pytest.fixture(scope="module")
def bundle(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = ["refine.steps=0", "model.norm=batch", 'model.familiarity=["encoder"]', "anomalies.place=codes"]
    recipe = load_recipe(TINY, [*settings, "threshold.calibration=cross-fitted"])
    out = tmp_path_factory.mktemp("made") / "part.bundle"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    train(read_layout(parts), recipe, out, general=general, quiet=True)
    return out


def test_a_defect_among_the_good_photos_is_listed_first(bundle: Path, parts: Path) -> None:
    found = suspects(load_bundle(bundle), bundle)
    names = sorted(sample.image.name for sample in read_layout(parts).train_good)
    assert sorted(Path(suspect.image).name for suspect in found) == names
    assert Path(found[0].image).name == names[3]
    assert [suspect.score for suspect in found] == sorted((suspect.score for suspect in found), reverse=True)
    (place,) = find_photos(found[:1], parts)
    assert place.name == names[3]


def test_the_command_lists_them_and_writes_pictures(bundle: Path, parts: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(
        cli.app, ["suspects", str(bundle), str(parts), "--top", "3", "--out", str(tmp_path / "out")]
    )
    assert run.exit_code == 0, run.output
    lines = run.output.splitlines()
    assert suspects(load_bundle(bundle), bundle)[0].image in lines[0]
    assert "move away and train again" in lines[3]
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 3
    assert (tmp_path / "out" / "report.html").exists()
    run = CliRunner().invoke(cli.app, ["suspects", str(bundle), "--out", str(tmp_path / "other")])
    assert run.exit_code == 2 and "need both" in run.output


def test_photos_that_are_not_there_or_not_one_are_refused(parts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.png is not in .*; give the folder"):
        find_photos([Suspect("gone.png", 0.5)], parts)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "1.png", (255 * torch.rand(8, 8, 3)).byte().numpy())
    with pytest.raises(DataError, match="fits 2 files"):
        find_photos([Suspect("1.png", 0.5)], tmp_path)


def test_a_bundle_that_knows_no_names_is_refused(tmp_path: Path) -> None:
    recipe = load_recipe(TINY, ["refine.steps=0"])
    made = Bundle(build(recipe.model, with_refinement=False), recipe, None, {"held_out_scores": [0.1]})
    save_bundle(made, tmp_path / "old.bundle")
    with pytest.raises(BundleError, match="train it again"):
        suspects(load_bundle(tmp_path / "old.bundle"), "old.bundle")
