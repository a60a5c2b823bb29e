"""Bundles that earlier flawmaps made (tests/bundles) load, find what they found then, and serve every command.

Whatever is renamed since, tensors, settings or keys of bundle.json, is still read by its old name.
"""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import flawmap
from flawmap import cli
from flawmap.bundle import load_bundle, save_bundle
from flawmap.config import dump_recipe, load_recipe, recipe_from_text
from flawmap.data.surfaces import write_sample_parts
from flawmap.deploy.check import check_photos
from flawmap.errors import BundleError

FOLDER = Path(__file__).parent / "bundles"
PHOTOS = sorted((FOLDER / "photos").glob("*.png"))
BUNDLES = ["5b43419/sources", "5b43419/refinement", "729bec8/sources", "729bec8/backbone"]
REQUIRED = {"weights.safetensors", "recipe.toml", "bundle.json", "backbone.json", "ignore.png"}
NEAR = 1e-4  # of scores and map values; on the machine that made the bundles they are the same to the last bit


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bundles, as they were when they were made."""
    folder = tmp_path_factory.mktemp("old")
    for name in BUNDLES:
        (folder / name).mkdir(parents=True)
        for file in (FOLDER / name).iterdir():
            if file.suffix == ".gz":
                (folder / name / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
            elif file.name not in ("expected.json", "trained.toml"):
                shutil.copy(file, folder / name)
    return folder


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, "brushed-metal", 96, 4, 3, 2, 11)
    return folder


def expected(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads((FOLDER / name / "expected.json").read_text(encoding="utf-8"))
    return found


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def scores(bundle: Path) -> list[float]:
    inspector = flawmap.load(bundle, "cpu", 1)
    return [inspector.inspect(photo).score for photo in PHOTOS]


@pytest.mark.parametrize("name", BUNDLES)
def test_an_old_bundle_finds_what_it_found_when_it_was_made(unpacked: Path, name: str) -> None:
    inspector = flawmap.load(unpacked / name, "cpu", 1)
    for photo in PHOTOS:
        found, then = inspector.inspect(photo), expected(name)[photo.name]
        assert found.score == pytest.approx(then["score"], abs=NEAR)
        assert found.threshold == then["threshold"] and found.defective is then["defective"]
        assert found.p_value == pytest.approx(then["p_value"])
        assert len(found.regions) == then["regions"]
        assert [*found.map.shape] == then["map"]["shape"]
        assert found.map.max() == pytest.approx(then["map"]["largest"], abs=NEAR)
        assert found.map.mean() == pytest.approx(then["map"]["mean"], abs=NEAR)
        rows, columns, values = (np.array(each) for each in zip(*then["map"]["values"], strict=True))
        assert found.map[rows, columns] == pytest.approx(values, abs=NEAR)
        for picture in ("object", "general"):
            mean = getattr(found, f"{picture}_reconstruction").mean()
            assert mean == pytest.approx(then[f"{picture}_reconstruction_mean"], abs=NEAR)


@pytest.mark.parametrize("name", BUNDLES)
def test_an_old_bundle_knows_how_its_photos_were(unpacked: Path, name: str) -> None:
    bundle = load_bundle(unpacked / name)
    assert bundle.photos is not None
    for checked in check_photos(bundle, bundle.photos, PHOTOS, "cpu"):
        assert checked.figures == pytest.approx(np.array(expected(name)[checked.image.name]["drift_figures"]), abs=1e-3)


@pytest.mark.parametrize("name", BUNDLES)
def test_an_old_recipe_is_read_and_written_anew_without_loss(unpacked: Path, name: str) -> None:
    recipe = load_recipe(unpacked / name / "recipe.toml")
    assert recipe == load_bundle(unpacked / name).recipe == recipe_from_text(dump_recipe(recipe))
    assert recipe.image.height == 96 and recipe.model.codes == 32 and recipe.run.device == "cpu"
    trained = load_recipe(FOLDER / name / "trained.toml")
    assert recipe.anomalies == trained.anomalies and recipe.detect == trained.detect and recipe.image == trained.image


@pytest.mark.parametrize("name", BUNDLES)
def test_nothing_of_an_old_bundle_is_lost_when_it_is_saved_anew(unpacked: Path, name: str, tmp_path: Path) -> None:
    """Whatever tensors are called by then."""
    anew = tmp_path / "anew.bundle"
    save_bundle(load_bundle(unpacked / name), anew)
    assert scores(anew) == scores(unpacked / name)
    assert load_bundle(anew).provenance == load_bundle(unpacked / name).provenance
    for file in (unpacked / name).glob("*.safetensors"):
        before, after = load_file(file), [*load_file(anew / file.name).values()]
        assert len(before) == len(after)
        for tensor_name, tensor in before.items():
            alike = [other for other in after if other.shape == tensor.shape]
            assert any(torch.allclose(tensor, other, rtol=1e-4, atol=1e-6) for other in alike), tensor_name
    for file_name in {"ignore.png", "backbone.json"} & {file.name for file in (unpacked / name).iterdir()}:
        assert (anew / file_name).read_bytes() == (unpacked / name / file_name).read_bytes()


@pytest.mark.parametrize("share", [0.6, None])
@pytest.mark.parametrize("name", ["729bec8/sources", "729bec8/backbone"])
def test_a_part_of_a_bundle_that_is_cut_short_or_missing_is_named(
    unpacked: Path, name: str, share: float | None, tmp_path: Path
) -> None:
    for file in (unpacked / name).iterdir():
        bundle = tmp_path / f"{file.name}.bundle"
        shutil.copytree(unpacked / name, bundle)
        if share is None:
            (bundle / file.name).unlink()
        else:
            (bundle / file.name).write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
        if file.name == "metrics.jsonl" and share is None:
            assert load_bundle(bundle).threshold is not None
            continue
        with pytest.raises(BundleError) as caught:
            load_bundle(bundle)
        assert file.name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", BUNDLES)
def test_of_an_old_bundle_the_required_files_suffice(unpacked: Path, name: str, tmp_path: Path) -> None:
    bundle = tmp_path / "bare.bundle"
    shutil.copytree(unpacked / name, bundle)
    for file in bundle.iterdir():
        if file.name not in REQUIRED:
            file.unlink()
    note = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))
    needed = {"format", "refinement", "weights_sha256", "threshold", "imagenet_around", "evidence_softness"}
    needed |= {"ignore_sha256", "backbone_json_sha256"}
    bare = {key: value for key, value in note.items() if key in needed} | {"provenance": {}}
    (bundle / "bundle.json").write_text(json.dumps(bare), encoding="utf-8")
    assert scores(bundle) == scores(unpacked / name)
    assert flawmap.load(bundle, "cpu", 1).inspect(PHOTOS[0]).p_value is None
    assert run("inspect", bundle, PHOTOS[0])[0] == 0
    code, said = run("check", bundle, PHOTOS[0])
    assert code == 2 and "does not know what its good photos were like" in said
    code, said = run("refine", bundle, "--good", PHOTOS[0], "--good", PHOTOS[1], "--out", tmp_path / "more.bundle")
    assert code == 2 and "cannot take photos in" in said


@pytest.mark.parametrize("name", BUNDLES)
def test_every_command_takes_an_old_bundle(unpacked: Path, name: str, tmp_path: Path, parts: Path) -> None:
    bundle = tmp_path / "part.bundle"
    shutil.copytree(unpacked / name, bundle)
    then = expected(name)
    code, said = run("inspect", bundle, FOLDER / "photos", "--out", tmp_path / "inspected")
    rejected = sum(photo["defective"] for photo in then.values())
    assert code == 0 and f"{rejected} defective, {4 - rejected} good, 0 failed" in said
    limit = next(iter(then.values()))["threshold"]
    code, said = run("threshold", bundle)
    assert code == 0 and f"threshold {limit:.6g} for" in said
    good, test = parts / "train" / "good", parts / "test" / "good"
    for arguments in (
        ["evaluate", bundle, parts],
        ["suspects", bundle],
        ["explain", bundle, PHOTOS[-1], "--out", tmp_path / "explained.html"],
        ["limits", bundle, test, "--out", tmp_path / "limits", "--sizes", "4", "--contrasts", "20%"],
        ["repeat", bundle, test, "--out", tmp_path / "repeat", "--shots", "2"],
        ["white", bundle],
        ["white", bundle, "4095", "--out", tmp_path / "white.bundle"],
        ["threshold", bundle, "--smallest", "20"],
        ["threshold", bundle, "--overkill", "10%"],
        ["threshold", bundle, "--value", "0.75"],
    ):
        code, said = run(*arguments)
        assert code == 0, (arguments, said)
    code, said = run("check", bundle, FOLDER / "photos")
    assert code == 0 and "4 photos" in said
    assert load_bundle(bundle).threshold.score == 0.75  # type: ignore[union-attr]
    assert scores(bundle) == scores(unpacked / name)
    code, said = run("refine", bundle, "--good", good, "--out", tmp_path / "more.bundle")
    if name.endswith("refinement"):
        assert code == 2 and "cannot take photos in" in said
    else:
        assert code == 0 and "new good photos rejected" in said, said
        assert len(scores(tmp_path / "more.bundle")) == 4
