"""Photos that may show defects are set aside: by what is known before a training, and anew after it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flawmap import cli
from flawmap.bundle import Bundle, build, load_bundle, load_imagenet
from flawmap.config import Recipe, load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.scope import read_scope
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.deploy.suspects import suspects
from flawmap.errors import CheckpointError, TrainingError
from flawmap.measure.threshold import choose_threshold
from flawmap.model.discrete import DiscreteModel
from flawmap.train.contamination import SET_ASIDE, allowed, divided, keep_in, kept_in, most, oddness, to_look_with
from flawmap.train.renew import renew
from flawmap.train.run import train

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = [
    "refine.steps=0", "model.norm=batch", 'model.familiarity=["encoder", "imagenet"]', "model.memory=50",
    "threshold.calibration=cross-fitted", "anomalies.place=codes", "detect.steps=5", "clean.contamination=0.1",
]  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty good parts, of which two have a dark bar."""
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, SURFACES[0], size=96, train=20, good=1, bad=1, seed=0)
    for number, photo in enumerate(bars(folder)):
        pixels = read_image(photo)
        pixels[30 : 45 + 5 * number, 20:80] *= 0.2
        write_image(photo, (255 * pixels).round().astype("uint8"))
    return folder


def bars(folder: Path) -> list[Path]:
    photos = sorted(sample.image for sample in read_layout(folder).train_good)
    return [photos[3], photos[11]]


@pytest.fixture(scope="module")
def general() -> DiscreteModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DiscreteModel(32, 8, 8, 4)


@pytest.fixture(scope="module")
def bundle(parts: Path, general: DiscreteModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "part.bundle"
    train(read_layout(parts), load_recipe(TINY, SETTINGS), out, general=general, quiet=True)
    return out


def looking(recipe: Recipe, general: DiscreteModel) -> tuple[Recipe, Bundle]:
    recipe = to_look_with(recipe)
    model = build(recipe.model, with_refinement=False).eval()
    model.discrete.load_state_dict(general.state_dict())
    assert model.imagenet is not None
    load_imagenet(model.imagenet)
    return recipe, Bundle(model, recipe, None, {})


@pytest.mark.parametrize("tile", [False, True])
def test_what_differs_from_the_others_is_odd_before_any_training(
    tile: bool, parts: Path, general: DiscreteModel
) -> None:
    cut = ["image.policy=tile", "image.height=64", "image.width=64"] if tile else []
    recipe, made = looking(load_recipe(TINY, [*SETTINGS, *cut]), general)
    photos = sorted(sample.image for sample in read_layout(parts).train_good)
    found = oddness(made.model, photos, recipe, read_scope(recipe.image), torch.device("cpu"))
    assert found.shape == (20,) and np.isfinite(found).all()
    assert {photos[index] for index in most(found.tolist(), 2)} == {*bars(parts)}
    again = oddness(made.model, photos, recipe, read_scope(recipe.image), torch.device("cpu"))
    np.testing.assert_array_equal(found, again)


def test_a_training_learns_nothing_from_what_is_set_aside(bundle: Path, parts: Path) -> None:
    opened = load_bundle(bundle)
    facts, names = opened.provenance, {path.name for path in bars(parts)}
    assert {Path(name).name for name in facts["set_aside"]} == names
    assert not {Path(name).name for name in facts["good_photos"]} & names
    assert len(facts["good_photos"]) == len(facts["held_out_scores"]) == 18
    assert opened.evidence is not None and len(opened.evidence.groups) == 18
    assert facts["trained_on"] + facts["held_out"] == 18
    assert min(facts["set_aside_scores"]) > opened.threshold.score  # type: ignore[union-attr]
    assert "10 % of the photos were set aside" in opened.threshold.note and not opened.threshold.supported  # type: ignore[union-attr]


def test_those_set_aside_are_among_the_suspects(bundle: Path) -> None:
    found = suspects(load_bundle(bundle), bundle)
    assert [suspect.set_aside for suspect in found] == [True] * 2 + [False] * 18
    run = CliRunner().invoke(cli.app, ["suspects", str(bundle), "--top", "1"])
    assert run.exit_code == 0, run.output
    assert [line.startswith("set aside") for line in run.output.splitlines()] == [True, True, False]  # whatever --top
    run = CliRunner().invoke(cli.app, ["suspects", str(bundle), "--set", "image.policy=tile"])
    assert run.exit_code == 2 and "a bundle has its recipe" in run.output


def test_photos_alone_are_held_against_one_another(parts: Path, bundle: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke(cli.app, ["suspects", str(parts), "--top", "3"])
    assert run.exit_code == 0, run.output
    *_, first, second, third, last = run.output.splitlines()
    assert {line.split()[-1] for line in (first, second)} == {str(photo) for photo in bars(parts)}
    assert "/train/good/" in third and "before training" in last
    for further in ([str(parts)], ["--out", str(tmp_path / "out")]):
        run = CliRunner().invoke(cli.app, ["suspects", str(parts), *further])
        assert run.exit_code == 2 and "is no bundle" in run.output
    write_image(tmp_path / "one.png", np.zeros((64, 64, 3), np.uint8))
    run = CliRunner().invoke(cli.app, ["suspects", str(tmp_path)])
    assert run.exit_code == 2 and "two or more" in run.output
    run = CliRunner().invoke(cli.app, ["suspects", str(tmp_path / "gone")])
    assert run.exit_code == 2 and "gone" in run.output


def test_the_threshold_set_anew_still_tells_of_them(bundle: Path) -> None:
    run = CliRunner().invoke(cli.app, ["threshold", str(bundle), "--overkill", "20%"])
    assert run.exit_code == 0, run.output
    assert "10 % of the photos were set aside as suspicious" in run.output


def test_a_killed_training_goes_on_with_the_same_photos(
    parts: Path, general: DiscreteModel, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing, recipe, out = read_layout(parts), load_recipe(TINY, SETTINGS), tmp_path / "part.bundle"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("flawmap.train.run.train_detection", killed)
        with pytest.raises(KeyboardInterrupt):
            train(listing, recipe, out, general=general, quiet=True)
    assert not out.exists()
    noted = json.loads((tmp_path / "part.bundle.run" / SET_ASIDE).read_text(encoding="utf-8"))
    assert {*noted} == {path.name for path in bars(parts)}
    with pytest.raises(TrainingError, match="go on with --resume"):
        train(listing, recipe, out, general=general, quiet=True)
    other = tmp_path / "other.bundle"
    with monkeypatch.context() as patch:
        patch.setattr("flawmap.train.run.train_detection", killed)
        with pytest.raises(KeyboardInterrupt):
            train(listing, load_recipe(TINY, [*SETTINGS, "clean.contamination=0"]), other, general=general, quiet=True)
        with pytest.raises(TrainingError, match="started without"):
            train(listing, recipe, other, general=general, quiet=True, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr("flawmap.train.run.oddness", killed)  # need not be told again
        train(listing, recipe, out, general=general, quiet=True, resume=True)
    assert (out / "weights.safetensors").read_bytes() == (bundle / "weights.safetensors").read_bytes()


def test_what_was_set_aside_wrongly_is_known_again_after_the_training(
    parts: Path, general: DiscreteModel, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = read_layout(parts)
    photos = sorted(sample.image for sample in listing.train_good)
    wrong = np.array([2.0, 1.0, *([0.0] * 18)])
    monkeypatch.setattr("flawmap.train.run.look_before", lambda *_: wrong)
    recipe = load_recipe(TINY, [*SETTINGS, "anomalies.place=image"])
    made = train(listing, recipe, tmp_path / "part.bundle", general=general, quiet=True)
    facts = made.provenance
    assert {*facts["set_aside"]} == {path.name for path in bars(parts)}
    assert {*facts["set_aside"], *facts["good_photos"]} == {path.name for path in photos}
    assert len(facts["good_photos"]) == 18 and facts["set_aside_share"] == 0.1
    assert made.model.familiarity is not None and made.model.imagenet is not None


def test_a_photo_taken_in_as_good_is_set_aside_no_longer(bundle: Path, parts: Path, tmp_path: Path) -> None:
    opened = load_bundle(bundle)
    other = tmp_path / bars(parts)[0].name  # of the same name
    other.write_bytes(sorted(sample.image for sample in read_layout(parts).train_good)[0].read_bytes())
    renewed, _ = renew(opened, bundle, [other, bars(parts)[1]])
    assert [Path(name).name for name in renewed.provenance["set_aside"]] == [other.name]
    assert renewed.threshold is not None and "5 % of the photos were set aside" in renewed.threshold.note
    renewed, _ = renew(opened, bundle, bars(parts))
    assert renewed.provenance["set_aside"] == [] and renewed.threshold is not None
    assert "set aside" not in renewed.threshold.note
    assert not any(suspect.set_aside for suspect in suspects(renewed, bundle))


def test_without_familiarity_photos_are_set_aside_once(parts: Path, general: DiscreteModel, tmp_path: Path) -> None:
    settings = ["refine.steps=0", "anomalies.place=codes", "detect.steps=5", "clean.contamination=0.1"]
    made = train(read_layout(parts), load_recipe(TINY, settings), tmp_path / "b", general=general, quiet=True)
    facts = made.provenance
    assert {*facts["set_aside"]} == {path.name for path in bars(parts)} and made.model.imagenet is None
    assert len(facts["set_aside_scores"]) == 2 and facts["trained_on"] + facts["held_out"] == 18


def test_notes_of_other_photos_or_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    good = {name: tmp_path / name for name in ("a.png", "b.png")}
    assert kept_in(tmp_path, good) is None
    keep_in(tmp_path, ["b.png"])
    assert kept_in(tmp_path, good) == [tmp_path / "b.png"]
    with pytest.raises(TrainingError, match="other good photos; resume with the same"):
        kept_in(tmp_path, {"a.png": tmp_path / "a.png"})
    (tmp_path / SET_ASIDE).write_text("[1", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not readable"):
        kept_in(tmp_path, good)


def paths(folder: str, count: int) -> list[Path]:
    return [Path(folder) / f"{number:02}.png" for number in range(count)]


def test_the_largest_scores_are_set_aside_and_the_others_admitted() -> None:
    trained, held_out, aside = paths("a", 16), paths("b", 2), paths("b", 4)[2:]
    told = {path: 0.1 for path in (*trained, *held_out)} | {trained[5]: 0.8}
    found = divided(told, {aside[0]: 0.9, aside[1]: 0.2}, 0.1, trained, held_out)
    assert found.aside == [aside[0], trained[5]]
    assert found.held_out == [*held_out, aside[1]]  # its folder is held out
    assert found.trained == [path for path in trained if path != trained[5]]
    found = divided(told, {trained[0].parent / "x.png": 0.0, aside[0]: 0.9}, 0.1, trained, held_out)
    assert found.trained[-1].name == "x.png" and found.held_out == held_out


def test_a_photo_that_stands_for_several_takes_their_room() -> None:
    trained, held_out, aside = paths("a", 36), paths("a", 38)[36:], paths("c", 2)
    told = {path: 0.5 + index / 100 for index, path in enumerate(trained[::2])}  # each for two and a bit
    found = divided(told, dict(zip(aside, (0.1, 0.1), strict=True)), 0.1, trained, held_out)
    assert found.aside == [trained[34]]  # of four, as two would take more
    assert allowed(0.1, 40) == 4 and allowed(0.05, 133) == 7 and allowed(0.05, 40) == 2


def test_a_threshold_says_what_it_costs_had_they_been_good() -> None:
    scores = [number / 100 for number in range(95)]
    plain = choose_threshold(scores, scores, 0.05)
    told = choose_threshold(scores, scores, 0.05, set_aside=0.05)
    assert told.score == plain.score and plain.supported and not told.supported
    assert "5 % of the photos were set aside as suspicious; had all of them been good, about 9.75 %" in told.note


@pytest.mark.parametrize(("share", "said"), [("150%", "expected a share of the good photos"), ("0.5", "contamination")])
def test_a_share_that_cannot_be_is_refused(share: str, said: str, parts: Path, tmp_path: Path) -> None:
    out = tmp_path / "part.bundle"
    run = CliRunner().invoke(cli.app, ["train", str(parts), "--out", str(out), "--contamination", share])
    assert run.exit_code == 2 and said in run.output, run.output
    assert not list(tmp_path.iterdir())
