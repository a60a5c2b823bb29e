"""More good photos are taken into a bundle: they are known then, and nothing of the old ones is forgotten."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from flawmap import cli
from flawmap.bundle import Bundle, build, load_bundle, save_bundle, sha256
from flawmap.config import load_recipe
from flawmap.data.images import read_image, write_image
from flawmap.data.layouts import read_layout
from flawmap.data.scope import Scope
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.errors import BundleError, TrainingError
from flawmap.measure.evidence import GoodEvidence
from flawmap.model.discrete import DiscreteModel
from flawmap.model.familiarity import LOW, Density, Familiarity, Moments
from flawmap.train import familiar
from flawmap.train.renew import moved, renew
from flawmap.train.run import train
from flawmap.train.sources import GoodParts

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = ["refine.steps=0", "model.norm=batch", 'model.familiarity=["encoder"]', "anomalies.place=codes"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, SURFACES[0], size=96, train=16, good=4, bad=4, seed=0)
    return folder


@pytest.fixture(scope="module")
def material(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Good parts of a new batch, much brighter, in two halves."""
    folder = tmp_path_factory.mktemp("batch")
    for number, sample in enumerate(sorted(read_layout(parts).train_good, key=lambda each: each.image)):
        pixels = 0.75 + 0.25 * read_image(sample.image)[::-1]
        write_image(folder / f"{number:02}.png", (255 * pixels).round().astype(np.uint8))
    return sorted(folder.iterdir())


def trained(parts: Path, out: Path, *more: str) -> Path:
    recipe = load_recipe(TINY, [*SETTINGS, "threshold.calibration=cross-fitted", "threshold.overkill=0.1", *more])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    train(read_layout(parts), recipe, out, general=general, quiet=True)
    return out


@pytest.fixture(scope="module")
def made(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(parts, tmp_path_factory.mktemp("made") / "part.bundle")


def scores(bundle: Bundle, photos: list[Path]) -> np.ndarray:
    from flawmap.deploy.inspector import Inspector

    return np.array([Inspector(bundle, "cpu").inspect(photo).score for photo in photos])


def test_a_new_batch_is_known_after_it_is_taken_in_and_the_old_one_still_is(
    made: Path, parts: Path, material: list[Path]
) -> None:
    bundle = load_bundle(made)
    learnt, unseen = material[::2], material[1::2]
    old = [sample.image for sample in read_layout(parts).test if not sample.defective]
    renewed, change = renew(bundle, made, learnt)
    assert bundle.threshold is not None and renewed.threshold is not None
    assert (scores(bundle, unseen) > bundle.threshold.score).all(), "they are rejected before"
    assert (scores(renewed, unseen) > renewed.threshold.score).mean() < 0.5
    before, after = (
        (scores(each, old) > each.threshold.score).sum() for each in (bundle, renewed) if each.threshold is not None
    )
    assert after <= before, "old good parts pass as they did"
    assert change.good_before == pytest.approx(scores(bundle, learnt).tolist(), abs=1e-4)
    assert change.thresholds == (bundle.threshold.score, renewed.threshold.score)
    assert len(renewed.provenance["held_out_scores"]) == 16 + len(learnt)
    for name, tensor in bundle.model.state_dict().items():
        if not name.startswith("familiarity"):
            assert torch.equal(tensor, renewed.model.state_dict()[name]), "the networks stay"


def test_a_photo_taken_in_is_held_against_the_others(made: Path, material: list[Path]) -> None:
    renewed, change = renew(load_bundle(made), made, material)
    familiarity, told = renewed.model.familiarity, renewed.evidence
    assert familiarity is not None and told is not None
    parts = GoodParts(material, renewed.recipe, Scope(renewed.recipe.image, None))
    for number in range(len(material)):
        ((picture, _),) = parts.pictures(number)
        examined = renewed.model.examine(picture)
        known = float(familiarity.evidence(examined.logits, examined.features)[1].max())
        assert told.largest[16 + number, 1] > known, "it is more familiar to all than to the others"
    assert renewed.provenance["held_out_scores"][16:] == pytest.approx(change.good_after)


def test_old_photos_scores_stay_what_they_are_where_evidence_adds_up(parts: Path, tmp_path: Path) -> None:
    kinds = ["model.fusion=log-mean-exp", 'model.familiarity=["encoder", "local", "detection"]']
    bundle = load_bundle(trained(parts, tmp_path / "sum.bundle", *kinds))
    write_sample_parts(tmp_path / "more", SURFACES[0], size=96, train=6, good=1, bad=1, seed=1)
    renewed, _ = renew(bundle, "sum", [sample.image for sample in read_layout(tmp_path / "more").train_good])
    familiarity, told = renewed.model.familiarity, renewed.evidence
    assert familiarity is not None and told is not None and len(familiarity.sources) > 1
    old = {sample.image.name: sample.image for sample in read_layout(parts).train_good}
    photos = [old[Path(name).name] for name in bundle.provenance["good_photos"]]
    wanted = []
    for photo, group in zip(photos, told.groups.tolist(), strict=False):  # at hand here: each as the others tell, anew
        told.wear(familiarity, group)
        known = GoodParts([photo], renewed.recipe, Scope(renewed.recipe.image, None))
        wanted.append(known.score(renewed.model, 0, torch.device("cpu"))[0])
    found = np.array(renewed.provenance["held_out_scores"][:16])
    by_largest = np.array(told.scores(familiarity)[:16])
    assert np.abs(found - wanted).mean() < 0.5 * np.abs(by_largest - wanted).mean()


@pytest.mark.parametrize("remembers", [True, False])
def test_variances_are_raised_more_where_the_most_alike_counts(remembers: bool) -> None:
    features = (
        torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 0.1])[:, None, None]
    )
    moments = Moments(3)
    moments.add(features)
    told = GoodEvidence(
        ("map", "imagenet"), {0: {"imagenet": moments}}, np.zeros(2, np.int64), np.zeros((2, 2)), np.zeros(2),
        np.ones(2), patches={LOW: {0: torch.ones(4, 3)}} if remembers else {},
    )  # fmt: skip
    worn, wanted = Familiarity({"imagenet": 3}), Density(3)
    told.wear(worn)
    wanted.fit(moments.mean(), moments.covariance(), 0.1 if remembers else 1e-3)
    ((_, density),) = worn.named_densities()
    torch.testing.assert_close(density.whitening, wanted.whitening)
    assert (density.memory is not None) == remembers


REMEMBERING = ['model.familiarity=["imagenet"]', "model.memory=16", "model.fusion=log-mean-exp"]


def test_places_of_photos_taken_in_are_remembered_beside_the_old(
    parts: Path, material: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiar, "PHOTOS", 6)  # tell what good parts come to; places of all are remembered
    made = trained(parts, tmp_path / "remembers.bundle", *REMEMBERING)
    bundle = load_bundle(made)
    again = load_bundle(made)
    renewed, change = renew(bundle, made, material[:8])
    old, told = again.evidence, renewed.evidence
    assert old is not None and told is not None
    before, after = old.patches[LOW], told.patches[LOW]
    assert {group: len(cells) for group, cells in before.items()} == {
        group: len(cells) for group, cells in after.items() if group in before
    }
    added = sum(map(len, after.values())) - sum(map(len, before.values()))
    assert old.remembered == 16 and told.remembered == 24 and len(old.groups) == 6
    assert 8 <= added <= 16 and len(before) < len(after), "as many of a photo as of the old: one, rounded up"
    save_bundle(renewed, tmp_path / "renewed.bundle")
    reread = load_bundle(tmp_path / "renewed.bundle")
    assert reread.evidence is not None and reread.model.familiarity is not None
    np.testing.assert_allclose(scores(reread, material[:3]), scores(renewed, material[:3]), atol=2e-3)
    np.testing.assert_allclose(
        reread.evidence.scores(reread.model.familiarity)[-8:], told.scores(renewed.model.familiarity)[-8:], atol=5e-3
    )
    assert (scores(renewed, material[:8]) < change.good_after).all(), "they are known now"


def test_scores_move_as_their_log_odds_do() -> None:
    odds = np.array([0.5, 2.0, 1e-12, 1e12])
    kept = moved((odds / (1 + odds)).tolist(), np.log([1.0, 3.0, 1.0, 1.0]))
    np.testing.assert_allclose(kept, [1 / 3, 6 / 7, 1e-7, 1 - 1e-7], rtol=1e-6)


def test_photos_can_be_taken_in_again_and_what_was_told_outlives_the_file(
    made: Path, material: list[Path], tmp_path: Path
) -> None:
    first, _ = renew(load_bundle(made), made, material[:4])
    save_bundle(first, tmp_path / "first.bundle")
    reread = load_bundle(tmp_path / "first.bundle")
    second, _ = renew(reread, "first", material[4:8])
    direct, _ = renew(first, "first", material[4:8])
    assert second.evidence is not None and len(second.evidence.groups) == 16 + 8
    np.testing.assert_allclose(second.provenance["held_out_scores"], direct.provenance["held_out_scores"], atol=2e-3)
    assert [entry["good"] for entry in second.provenance["taken_in"]] == [4, 4]


def test_evidence_is_the_same_from_its_tensors(made: Path) -> None:
    bundle = load_bundle(made)
    told = bundle.evidence
    assert told is not None and bundle.model.familiarity is not None
    told.trust[:] = [1.0, 0.5]
    again = GoodEvidence.from_tensors(told.tensors(), told.kinds)
    assert again.trust.tolist() == [1.0, 0.5] and told.only(told.kinds[1:]).trust.tolist() == [0.5]
    untold = {name: tensor for name, tensor in told.tensors().items() if name != "trust"}
    assert GoodEvidence.from_tensors(untold, told.kinds).trust.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="other kinds"):
        GoodEvidence.from_tensors({**told.tensors(), "trust": torch.ones(3)}, told.kinds)
    for left_out in (-2, 3):
        states = []
        for each in (told, again):
            each.wear(bundle.model.familiarity, left_out)
            states.append({name: tensor.clone() for name, tensor in bundle.model.familiarity.state_dict().items()})
        for name, tensor in states[0].items():
            torch.testing.assert_close(tensor, states[1][name], rtol=1e-3, atol=1e-4)
    whole = {
        f"covariances.{name}": torch.stack([sums[name].covariance() for sums in told.moments.values()]).float()
        for name in told.kinds[1:]
    }
    older = GoodEvidence.from_tensors({**told.tensors(), **whole}, told.kinds)  # covariances were stored whole
    for group, sums in again.moments.items():
        for name, moments in sums.items():
            torch.testing.assert_close(older.moments[group][name].covariance(), moments.covariance())
    with pytest.raises(ValueError, match="other kinds"):
        GoodEvidence.from_tensors({**told.tensors(), "peaks": torch.zeros(3)}, told.kinds)


def test_the_scores_kept_are_those_of_its_evidence(made: Path) -> None:
    bundle = load_bundle(made)
    assert bundle.evidence is not None and bundle.model.familiarity is not None
    found = bundle.evidence.scores(bundle.model.familiarity)
    assert found == pytest.approx(bundle.provenance["held_out_scores"], abs=3e-3)


def test_the_command_writes_a_new_bundle_and_leaves_the_old(made: Path, parts: Path, material: list[Path]) -> None:
    before = {file.name: sha256(file) for file in made.iterdir()}
    defective = [str(sample.image) for sample in read_layout(parts).test if sample.defective]
    out = made.with_name("new.bundle")
    how = ["refine", str(made), "--good", str(material[0].parent), "--out", str(out)]
    run = CliRunner().invoke(cli.app, [*how, *(part for image in defective for part in ("--defects", image))])
    assert run.exit_code == 0, run.output
    assert "new good photos rejected: 16 -> " in run.output and "of 4" in run.output and "wrote" in run.output
    assert {file.name: sha256(file) for file in made.iterdir()} == before
    again = CliRunner().invoke(cli.app, how)
    assert again.exit_code == 2 and "exists" in again.output
    assert load_bundle(out).threshold != load_bundle(made).threshold


def test_what_cannot_take_photos_in_says_so(made: Path, material: list[Path]) -> None:
    recipe = load_recipe(TINY, ["refine.steps=0"])
    plain = Bundle(build(recipe.model, with_refinement=False), recipe, load_bundle(made).threshold, {})
    with pytest.raises(BundleError, match="train it anew"):
        renew(plain, "plain.bundle", material)
    with pytest.raises(TrainingError, match="1 good photo: give 2 or more"):
        renew(load_bundle(made), made, material[:1])


@pytest.mark.parametrize("folder", ["NG", "good/clean"])
def test_folders_that_train_asks_about_are_asked_about_before_the_bundle_is_read(folder: str, tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "drawn", "fabric", size=64, train=3, good=1, bad=1, seed=0)
    held = tmp_path / "new" / folder
    held.parent.mkdir(parents=True)
    (tmp_path / "drawn" / "train" / "good").rename(held)
    how = ["refine", str(tmp_path / "no.bundle"), "--good", str(tmp_path / "new"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.app, how)
    assert result.exit_code == 2 and "the folders of good photos alone" in result.stderr, result.stderr
    assert not (tmp_path / "out").exists()
