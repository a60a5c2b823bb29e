"""One scene as 8, 12 in 16 and 16 bits gets one score, by command and in Python; at another level it gets none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_helpers import refuse, rows, run, succeed
from deploy_helpers import TINY

import flawmap
from flawmap.bundle import load_bundle, save_bundle, update_white
from flawmap.config import load_recipe
from flawmap.data.images import read_image, read_pixels, write_image
from flawmap.data.layouts import find_images, read_layout
from flawmap.errors import BundleError, ImageError
from flawmap.measure.photos import BRIGHTNESS
from flawmap.model.discrete import DiscreteModel
from flawmap.train.run import train

ALIKE = 0.004  # of a score: rounding of 12 bits


def restored(source: Path, folder: Path, level: int) -> Path:
    """Photos with 8 bits as a camera with so many levels stores them; masks stay."""
    for path in find_images([source]):
        place = folder / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        if "ground_truth" in path.parts:
            shutil.copyfile(path, place)
        else:
            write_image(place, np.rint(read_image(path) * level).astype(np.uint16))
    return folder


@pytest.fixture(scope="session")
def levels(metal: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The drawn data set at each level, by full white."""
    folder = tmp_path_factory.mktemp("levels")
    return {255: metal} | {
        level: restored(metal, folder / str(level) / "metal", level) for level in (1023, 4095, 65535)
    }


@pytest.fixture
def bundle(trained: Path, tmp_path: Path) -> Path:
    """A copy of the bundle trained on 8 bits."""
    return Path(shutil.copytree(trained, tmp_path / "metal.bundle"))


def scores(bundle: Path, photos: Path, out: Path) -> dict[str, float]:
    succeed("inspect", bundle, photos, "--out", out, "--device", "cpu", "--overwrite")
    return {
        Path(row["image"]).name + Path(row["image"]).parent.name: float(row["score"])
        for row in rows(out / "results.csv")
    }


def test_a_bundle_of_8_bits_scores_16_bits_alike_and_12_bits_once_it_is_told(
    bundle: Path, levels: dict[int, Path], tmp_path: Path
) -> None:
    expected = scores(bundle, levels[255] / "test", tmp_path / "out")
    assert max(expected.values()) - min(expected.values()) > 0.1
    assert scores(bundle, levels[65535] / "test", tmp_path / "out") == pytest.approx(expected, abs=ALIKE)
    result = run("inspect", bundle, levels[4095] / "test", "--out", tmp_path / "out", "--device", "cpu", "--overwrite")
    assert result.exit_code == 2
    told = rows(tmp_path / "out" / "results.csv")
    assert {row["score"] for row in told} == {""}, "none is scored"
    assert all("if they hold 12 bits, say so once: flawmap white BUNDLE 4095" in row["error"] for row in told)
    assert "65535" in succeed("white", bundle)
    assert "4095 as full white" in succeed("white", bundle, 4095)
    assert scores(bundle, levels[4095] / "test", tmp_path / "out") == pytest.approx(expected, abs=ALIKE)
    assert scores(bundle, levels[255] / "test", tmp_path / "out") == expected, "8 bits stay to the bit"
    for level in (1023, 65535):
        with pytest.raises(ImageError, match=rf"flawmap white BUNDLE {level}"):
            flawmap.load(bundle, "cpu").inspect(find_images([levels[level] / "test"])[0])


def test_arrays_are_read_as_files_are(bundle: Path, levels: dict[int, Path]) -> None:
    name = find_images([levels[255] / "test"])[0].relative_to(levels[255])
    inspector = flawmap.load(bundle, "cpu")
    expected = inspector.inspect(levels[255] / name).score
    twelve = np.array(read_pixels(levels[4095] / name))
    assert inspector.inspect(twelve.astype(np.float32) / 4095).score == pytest.approx(expected, abs=ALIKE)
    with pytest.raises(ImageError, match="image array: 16-bit pixels reach"):
        inspector.inspect(twelve)
    (found,) = inspector.inspect_many([twelve])
    assert isinstance(found, ImageError)
    update_white(bundle, 4095)
    told = flawmap.load(bundle, "cpu")
    assert told.inspect(twelve).score == pytest.approx(expected, abs=ALIKE)
    shown = told.inspect(twelve).input_image
    assert shown.mean() == pytest.approx(inspector.inspect(levels[255] / name).input_image.mean(), abs=ALIKE)


def test_every_command_reads_the_bundles_level(bundle: Path, levels: dict[int, Path], tmp_path: Path) -> None:
    good, test = levels[4095] / "test" / "good", levels[4095]
    photo = find_images([good])[0]
    commands: list[tuple[Any, ...]] = [
        ("evaluate", bundle, test, "--device", "cpu"),
        ("explain", bundle, photo, "--out", tmp_path / "sheet.png"),
        (
            "limits",
            bundle,
            good,
            "--out",
            tmp_path / "limits",
            "--sizes",
            "4,8",
            "--contrasts",
            "0.4",
            "--device",
            "cpu",
        ),
        ("repeat", bundle, good, "--shots", "2", "--out", tmp_path / "repeat", "--device", "cpu"),
        ("watch", tmp_path / "watched", "--model", bundle, "--once", "--device", "cpu"),
    ]
    shutil.copytree(good, tmp_path / "watched")
    for command in commands:
        result = run(*command)
        assert "flawmap white BUNDLE 4095" in result.output + result.stderr, command
        assert result.exit_code in (1, 2), command
    assert "flawmap white BUNDLE 4095" in run("check", bundle, good).output
    update_white(bundle, 4095)
    shutil.rmtree(tmp_path / "watched")
    shutil.copytree(good, tmp_path / "watched")
    for command in commands:
        assert run(*command, *(["--overwrite"] if command[0] in ("limits", "repeat") else [])).exit_code == 0, command
    drawn = read_image(tmp_path / "sheet.png")
    succeed("explain", bundle, levels[255] / photo.relative_to(levels[4095]), "--out", tmp_path / "other.png")
    assert np.abs(drawn - read_image(tmp_path / "other.png")).mean() < 0.01
    assert "unlike the good ones" not in succeed("check", bundle, good)


def tiny(**changes: Any) -> Any:
    settings = ["refine.steps=0", "model.norm=batch", 'model.familiarity=["encoder", "local"]', "anomalies.place=codes"]
    settings += ["threshold.calibration=cross-fitted", "model.discrete_width=16"]
    return load_recipe(TINY, [*settings, *(f"{name}={value}" for name, value in changes.items())])


def trained_on(data: Path, out: Path, *settings: str) -> list[str]:
    """Train as the bundle of 8 bits was; what was said."""
    said: list[str] = []
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(width=16, hidden=4, codes=32, code_length=8)
    given = dict(setting.split("=", 1) for setting in settings)
    train(read_layout(data), tiny(**given), out, general=general, quiet=True, say=said.append)
    return said


@pytest.fixture(scope="module")
def twelve(levels: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[str]]]:
    """A bundle trained on 12 bits in 16, and what its training said."""
    out = tmp_path_factory.mktemp("twelve") / "metal.bundle"
    yield out, trained_on(levels[4095], out)


def test_a_training_on_12_bits_says_so_and_gives_the_bundle_of_8_bits(
    twelve: tuple[Path, list[str]], trained: Path, levels: dict[int, Path], tmp_path: Path
) -> None:
    out, said = twelve
    (line,) = (line for line in said if "16 bits" in line)
    assert "12 photos have 16 bits and no pixel above" in line
    assert line.endswith("taken for 12 bits, full white is 4095 (image.white)")
    kept = load_bundle(out)
    assert kept.recipe.image.white == 4095
    assert kept.white.level == 4095
    assert kept.provenance["white"]["photos"] == 12
    known, other = load_bundle(trained).photos, kept.photos
    assert known is not None and other is not None
    assert other.figures[:, BRIGHTNESS].mean() == pytest.approx(known.figures[:, BRIGHTNESS].mean(), abs=0.01)
    for level, folder in levels.items():
        if level in (255, 4095):
            assert read_layout(folder).test
            found = scores(out, folder / "test", tmp_path / "out")
            assert found == pytest.approx(scores(out, levels[255] / "test", tmp_path / "out"), abs=ALIKE)
    with pytest.raises(ImageError, match="above the full white 4095"):
        flawmap.load(out, "cpu").inspect(find_images([levels[65535] / "test"])[0])
    with pytest.raises(ImageError, match="if they hold 10 bits"):
        flawmap.load(out, "cpu").inspect(find_images([levels[1023] / "test"])[0])


def test_an_artefact_says_the_level(twelve: tuple[Path, list[str]], tmp_path: Path) -> None:
    from flawmap.deploy.export import describe

    kept = load_bundle(twelve[0])
    about = describe(kept, "", "float32", False)
    assert about["white"] == 4095
    assert "times 255 / white" in about["input"]


def test_photos_that_an_artefact_is_checked_on_are_read_at_the_level(bundle: Path, levels: dict[int, Path]) -> None:
    from flawmap.deploy.export import _pixels

    update_white(bundle, 4095)
    opened = load_bundle(bundle)
    name = find_images([levels[255] / "train"])[0].relative_to(levels[255])
    seen = _pixels(levels[4095] / name, opened).astype(int)
    assert np.abs(seen - _pixels(levels[255] / name, opened)).max() <= 1


def test_a_level_that_a_training_photo_exceeds_is_refused(levels: dict[int, Path], tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"above the full white 1023 of image\.white"):
        trained_on(levels[4095], tmp_path / "out.bundle", "image.white=1023")
    assert not (tmp_path / "out.bundle").exists()
    assert not (tmp_path / "out.bundle.run").exists()


def test_a_bundle_of_before_tells_12_bits_by_its_photos_brightness(
    bundle: Path, levels: dict[int, Path], tmp_path: Path
) -> None:
    note = json.loads((bundle / "bundle.json").read_text())
    del note["provenance"]["white"]
    note = {
        name: value for name, value in note.items() if name not in ("facts_sha256", "recipe_sha256", "metrics_sha256")
    }
    (bundle / "bundle.json").write_text(json.dumps(note))
    recipe = (bundle / "recipe.toml").read_text()
    assert 'white = "auto"\n' in recipe
    (bundle / "recipe.toml").write_text(recipe.replace('white = "auto"\n', ""))
    inspector = flawmap.load(bundle, "cpu")
    photos = {level: find_images([folder / "test"])[0] for level, folder in levels.items()}
    assert inspector.inspect(photos[65535]).score == pytest.approx(inspector.inspect(photos[255]).score, abs=ALIKE)
    with pytest.raises(ImageError, match="12 bits"):
        inspector.inspect(photos[4095])
    opened = load_bundle(bundle)
    opened.photos = None  # as of an import of the authors' files
    save_bundle(opened, tmp_path / "imported.bundle")
    with pytest.raises(ImageError, match="12 bits"):
        flawmap.load(tmp_path / "imported.bundle", "cpu").inspect(photos[4095])


def test_what_is_no_level_is_refused(bundle: Path) -> None:
    before = (bundle / "bundle.json").read_bytes()
    with pytest.raises(BundleError, match="255 to 65535"):
        update_white(bundle, 12)
    assert run("white", bundle, "12").exit_code == 2
    assert (bundle / "bundle.json").read_bytes() == before
    refuse("white", bundle.parent / "none", "4095")


@pytest.mark.parametrize("made_up", ["4095", True, -1, 70000, None, [], {"set": "x"}])
def test_a_made_up_level_in_a_bundle_is_no_level(bundle: Path, made_up: Any) -> None:
    opened = load_bundle(bundle)
    opened.provenance = {"white": {"set": made_up, "reach": made_up}}
    assert opened.white.level == 65535
    opened.provenance = {"white": made_up}
    assert opened.white.level == 65535
