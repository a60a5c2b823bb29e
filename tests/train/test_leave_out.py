"""Test photos are scored as if training photos near them were not known; all other photos as ever."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_helpers import refuse, rows, succeed

from flawmap.bundle import Bundle, build, load_bundle, save_bundle
from flawmap.config import load_recipe
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.deploy.evaluation import evaluate
from flawmap.deploy.inspector import Inspector
from flawmap.errors import BundleError, ConfigError, DataError
from flawmap.measure.near_duplicates import Near
from flawmap.model.discrete import DiscreteModel
from flawmap.model.familiarity import HIGH, LOW, Moments
from flawmap.train import familiar, leave_out
from flawmap.train.leave_out import LeaveOut
from flawmap.train.owned_bank import OwnedBank
from flawmap.train.renew import renew
from flawmap.train.run import train
from jury_figures import without_near_duplicates

TINY = Path(__file__).parents[1] / "tiny.toml"
SETTINGS = ["refine.steps=0", "model.norm=batch", "anomalies.place=codes", "model.fusion=log-mean-exp"]
BANKS = ["model.familiarity=['encoder', 'imagenet', 'imagenet_high']", "model.components=16", "model.memory=48",
         "model.neighbourhood=3"]  # fmt: skip
LARGE = ["image.height=128", "image.width=128", "detect.crop=128"]
CROSS = "threshold.calibration=cross-fitted"
COPY = "test/copy/num_3.png"  # of train/a/num_3.png, by number, folder (below), and features
OTHERS = ("test/new/num_900.png", "test/new/num_901.png")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 good photos in 4 folders to train on; to test on a copy of the first, two other good ones and two defects.

    The first is an odd one, as parts with a repair are. The number of the copy is that of the photo. The last test
    photo lies in the folder of the first ones.
    """
    drawn = tmp_path_factory.mktemp("drawn") / "metal"
    write_sample_parts(drawn, SURFACES[0], size=96, train=11, good=2, bad=3, seed=0)
    folder = tmp_path_factory.mktemp("parts") / "metal"
    listing = read_layout(drawn)
    table: list[tuple[str, str, str]] = []
    odd, *bad = [sample.image for sample in listing.test if sample.defective]
    good = [odd, *sorted(sample.image for sample in listing.train_good)]
    for number, image in enumerate(good):
        table.append((f"train/{'abcd'[number // 3]}/num_{10 * number + 3}.png", "train", "good"))
        _copy(image, folder / table[-1][0])
    tested = [good[0], *(sample.image for sample in listing.test if not sample.defective)]
    for image, name in zip(tested, (COPY, *OTHERS), strict=True):
        table.append((name, "test", "good"))
        _copy(image, folder / name)
    for image, name in zip(bad, ("test/bad/num_500.png", "train/a/num_600.png"), strict=True):
        table.append((name, "test", "defect"))
        _copy(image, folder / name)
    with (folder / "split.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "split", "label", "mask"), *((*row, "") for row in table)])
    return folder


def _copy(image: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(image, to)


def trained(parts: Path, out: Path, *settings: str) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(32, 8, 8, 4)
    recipe = load_recipe(TINY, [*SETTINGS, "threshold.overkill=0.1", *settings])
    train(read_layout(parts), recipe, out, general=general, quiet=True)
    return out


@pytest.fixture(scope="module")
def made(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(parts, tmp_path_factory.mktemp("made") / "part.bundle", *LARGE, *BANKS, CROSS)


def left_out_of(path: Path, parts: Path) -> tuple[Bundle, LeaveOut]:
    bundle = load_bundle(path)
    return bundle, LeaveOut(bundle, path, [sample.image for sample in read_layout(parts).train_good])


def scores(folder: Path, ending: str = "") -> dict[str, str]:
    return {row["image"]: row["score"] for row in rows(folder / f"images{ending}.csv")}


@pytest.fixture(scope="module")
def measured(made: Path, parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation as ever, and beside it some without near-duplicates."""
    out = tmp_path_factory.mktemp("measured") / "evaluation"
    succeed("evaluate", made, parts, "--out", out)
    for rule in ("number:0,10", "folder", "features:0.01"):
        succeed("evaluate", made, parts, "--out", out, "--without-near-duplicates", "--near", rule)
    return out


@pytest.mark.parametrize(
    ("ending", "near"),
    [
        ("-without-0", {COPY}),
        ("-without-10", {COPY}),
        ("-without-folder", {"train/a/num_600.png"}),
    ],
)
def test_a_photo_with_near_ones_is_less_familiar_without_them_and_all_others_score_as_ever(
    ending: str, near: set[str], measured: Path
) -> None:
    plain, without = scores(measured), scores(measured, ending)
    assert plain.keys() == without.keys() and len(plain) == 5
    for name, score in plain.items():
        if name in near:
            assert float(without[name]) > float(score) + 0.002
        else:
            assert without[name] == score, "to the bit"
    found = json.loads((measured / f"metrics{ending}.json").read_text(encoding="utf-8"))
    assert found["without_near_duplicates"]["with_near_ones"] == len(near)
    assert found["without_near_duplicates"]["left_out_most"] == {"-without-10": 2, "-without-folder": 3}.get(ending, 1)


def test_a_copy_is_much_less_familiar_without_its_original(measured: Path) -> None:
    plain, without = scores(measured), scores(measured, "-without-0")
    known, unknown = float(plain[COPY]), float(without[COPY])
    assert known < 0.8 and unknown > 0.95, "what is odd in it is known from the original alone"
    assert float(scores(measured, "-without-features-0.01")[COPY]) > 0.95


def test_the_files_have_the_same_keys_and_the_jury_reads_them(measured: Path) -> None:
    plain = json.loads((measured / "metrics.json").read_text(encoding="utf-8"))
    found = {path: json.loads(path.read_text(encoding="utf-8")) for path in measured.glob("metrics-*.json")}
    assert len(found) == 4
    for values in found.values():
        assert values.keys() - {"without_near_duplicates"} == plain.keys()
        assert values["threshold"] == plain["threshold"], "it stays as trained"
        assert "as trained" in values["without_near_duplicates"]["note"]
    numbered = [measured / f"metrics-without-{number}.json" for number in (0, 10)]
    assert without_near_duplicates(numbered)["10"]["image_auroc"] == found[numbered[1]]["image_auroc"]
    page = (measured / "report-without-10.html").read_text(encoding="utf-8")
    assert "differs from its own by at most 10" in page
    assert "Without near-duplicates" not in (measured / "report.html").read_text(encoding="utf-8")


def test_without_a_rule_folders_tell_where_there_are_several(made: Path, parts: Path) -> None:
    shown = succeed("evaluate", made, parts, "--without-near-duplicates")
    assert "in the same folder (3 for 1 of 5 test photos)" in shown


def test_an_evaluation_beside_others_is_overwritten_only_if_asked(made: Path, parts: Path, tmp_path: Path) -> None:
    words = ("evaluate", made, parts, "--out", tmp_path, "--without-near-duplicates", "--near", "number:0")
    (tmp_path / "metrics.json").write_text("{}")
    succeed(*words)
    before = (tmp_path / "metrics-without-0.json").read_bytes()
    assert "metrics-without-0.json exists" in refuse(*words)
    assert "metrics-without-0.json exists" in refuse(*words[:-1], "number:5,0"), "before anything is measured"
    succeed(*words, "--overwrite")
    assert (tmp_path / "metrics-without-0.json").read_bytes() == before
    assert (tmp_path / "metrics.json").read_text() == "{}" and not (tmp_path / "metrics-without-5.json").exists()


@pytest.mark.parametrize(
    "settings",
    [
        ["model.familiarity=['encoder', 'local', 'detection']", CROSS],
        [*LARGE, *BANKS, "threshold.calibration=held-out", "threshold.held_out_min=6", "run.seed=6"],
        ["image.policy=tile", "image.overlap=0.5", *BANKS, "model.components=0", CROSS],
        [*LARGE, *BANKS, "image.exclude=[[[0, 0], [0.3, 0], [0.3, 1], [0, 1]]]", CROSS],
    ],
)
def test_it_holds_for_every_kind_of_recipe(
    settings: list[str], parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (familiar, leave_out):
        monkeypatch.setattr(module, "PHOTOS", 5)  # that Gaussians are fitted to
    bundle, leaving = left_out_of(trained(parts, tmp_path / "part.bundle", *settings), parts)
    listing = read_layout(parts)
    test = [sample.image for sample in listing.test]
    inspector = Inspector(bundle, "cpu")
    plain = [inspector.inspect(photo).score for photo in test]
    known = {leaving.paths[number] for number in leaving.fitted}
    copy = parts / COPY
    assert parts / "train/a/num_3.png" in known
    for source, whole in leaving._whole.items():
        wanted = Moments.of([leaving._moments_of(number)[source] for number in leaving.fitted])
        assert whole.count == wanted.count
        torch.testing.assert_close(whole.mean(), wanted.mean(), rtol=1e-4, atol=1e-5)
    without = leaving.without(Near("number", 0), test)
    assert without.counts == {photo: int(photo == copy) for photo in test}
    found = []
    for photo in test:
        without.prepare(photo)
        found.append(inspector.inspect(photo).score)
    number = test.index(copy)
    assert found[number] > plain[number], (found, plain)
    assert [*found[:number], *found[number + 1 :]] == [*plain[:number], *plain[number + 1 :]]
    without.prepare(copy)
    without.prepare(None)
    assert [inspector.inspect(photo).score for photo in test] == plain, "in the end all is as trained"
    assert evaluate(inspector, listing, without=without).left_out is not None
    assert [inspector.inspect(photo).score for photo in test] == plain


def patches(bundle: Bundle, photo: Path, source: str) -> torch.Tensor:
    """All patches of a photo, as stored."""
    parts = familiar.GoodParts([photo], bundle.recipe, leave_out.Scope(bundle.recipe.image, None))
    ((picture, inside),) = parts.pictures(0)
    assert bundle.model.familiarity is not None
    around = bundle.model.familiarity.around[source]
    return familiar.patches_of(bundle.model.pretrained(picture)[source], inside, around).half().float()


@pytest.mark.parametrize("source", [LOW, HIGH])
def test_each_patch_is_found_in_its_photo(source: str, made: Path, parts: Path) -> None:
    bundle, leaving = left_out_of(made, parts)
    bank = leaving._banks[source]
    assert len({*bank.owners.tolist()}) > 4
    for patch, owner in zip(bank.patches, bank.owners.tolist(), strict=True):
        assert (patches(bundle, leaving.paths[owner], source) == patch).all(dim=1).any()


@pytest.mark.parametrize("source", [LOW, HIGH])
def test_the_bank_keeps_other_photos_patches_and_goes_on_with_the_farthest(
    source: str, made: Path, parts: Path
) -> None:
    bundle, leaving = left_out_of(made, parts)
    bank = leaving._banks[source]
    near = frozenset({int(bank.owners[0]), int(bank.owners[-1])})
    gone = torch.tensor([owner in near for owner in bank.owners.tolist()])
    found = bank.without(near)
    assert len(found) == len(bank.patches) and 0 < gone.sum() < len(found)
    assert torch.equal(found[: int((~gone).sum())], bank.patches[~gone])
    others = torch.cat([patches(bundle, path, source) for n, path in enumerate(leaving.paths) if n not in near])
    points, kept = bank.candidates.projected(others), bank.candidates.projected(bank.patches[~gone])
    for patch in found[int((~gone).sum()) :]:  # k-center greedy, plainly
        point = bank.candidates.projected(patch[None])
        away, chosen = (
            torch.cdist(each, kept, compute_mode="donot_use_mm_for_euclid_dist").amin(1) for each in (points, point)
        )
        assert float(chosen) == pytest.approx(float(away.max()), rel=1e-2) and float(chosen) > 0.1
        assert (others == patch).all(dim=1).any(), "of a photo that is not left out"
        kept = torch.cat([kept, point])
    assert torch.equal(bank.without(frozenset()), bank.patches)


def test_where_the_last_patch_alone_goes_the_bank_is_as_remembered_without_the_photo(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(familiar, "FOLDS", 1)  # of which patches are chosen apart
    bundle, leaving = left_out_of(trained(parts, tmp_path / "one.bundle", *LARGE, *BANKS, CROSS), parts)
    assert bundle.evidence is not None
    compared = 0
    for source, bank in leaving._banks.items():
        for count in range(8, len(bank.patches)):
            owner = int(bank.owners[count - 1])
            if owner in bank.owners[: count - 1]:
                continue  # it has an earlier patch, too
            bank.candidates.points, bank.candidates.cells = [], []
            for number, path in enumerate(leaving.paths):  # as training goes over them, but for this photo
                if number != owner:
                    bank.candidates.cells.append(patches(bundle, path, source).half())
                    bank.candidates.points.append(bank.candidates.projected(bank.candidates.cells[-1]))
            wanted = bank.candidates.choose(count)
            if not torch.equal(wanted[: count - 1], bank.patches[: count - 1]):
                continue  # another first patch, as another mean is without this photo
            first = replaced(leaving, source, count, frozenset({owner}))
            assert torch.equal(first, wanted)
            compared += 1
    assert compared > 0


def replaced(leaving: LeaveOut, source: str, count: int, near: frozenset[int]) -> torch.Tensor:
    """What takes the place of patches of photos in a bank that remembers only the first `count`."""
    evidence = leaving.evidence
    ((group, stored),) = evidence.patches[source].items()
    smaller = leave_out.replace(evidence, patches={source: {group: stored[:count]}})
    bank = OwnedBank(source, smaller, leaving._looks)
    for number, path in enumerate(leaving.paths):
        bank.add(number, patches(leaving.bundle, path, source), 10**6)
    return bank.without(near)


def test_gaussians_and_calibration_are_of_the_other_photos(made: Path, parts: Path) -> None:
    bundle, leaving = left_out_of(made, parts)
    near = frozenset({0, 4})
    told = leaving.evidence_without(near)
    for source in leaving.evidence.kinds[1:]:
        wanted = Moments.of([leaving._moments_of(n)[source] for n in leaving.fitted - near])
        assert told.moments[0][source].count == wanted.count
        torch.testing.assert_close(told.moments[0][source].mean(), wanted.mean(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(told.moments[0][source].covariance(), wanted.covariance(), rtol=1e-3, atol=1e-4)
    calibrating = [leaving.paths[number] for number in leaving.calibrating]
    assert [path.name for path in calibrating] == [Path(name).name for name in bundle.provenance["good_photos"]]
    kept = [row for row, number in enumerate(leaving.calibrating) if number not in near]
    np.testing.assert_array_equal(told.largest, leaving.evidence.largest[kept])
    assert len(kept) == 10
    leaving.apply(near)
    assert bundle.model.familiarity is not None
    for tensor in bundle.model.familiarity.state_dict().values():
        assert torch.equal(tensor, tensor.half().float()), "rounded as a bundle is"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--near", "number:200"), "add --without-near-duplicates"),
        (("--without-near-duplicates", "--near", "features:1"), "above 0 and below 1"),
        (("--without-near-duplicates", "--near", "names"), "expected folder"),
        (("--without-near-duplicates", "--runtime", "auto"), "leave out --runtime"),
        (("--without-near-duplicates", "--near", "number:9999"), "leaves out 12 of 12 training photos"),
    ],
)
def test_what_cannot_be_left_out_is_said_in_a_line(words: tuple[str, ...], said: str, made: Path, parts: Path) -> None:
    assert said in refuse("evaluate", made, parts, *words)


def test_names_without_a_number_are_told(made: Path, parts: Path, tmp_path: Path) -> None:
    data = shutil.copytree(parts, tmp_path / "parts")
    (data / COPY).rename((data / COPY).with_name("copy.png"))
    table = (data / "split.csv").read_text(encoding="utf-8")
    (data / "split.csv").write_text(table.replace(COPY, "test/copy/copy.png"), encoding="utf-8")
    words = ("evaluate", made, data, "--without-near-duplicates", "--near", "number:5")
    assert "copy.png has no number in its name" in refuse(*words)


def test_bundles_and_photos_that_do_not_belong_together_are_refused(made: Path, parts: Path, tmp_path: Path) -> None:
    bundle = load_bundle(made)
    good = sorted(sample.image for sample in read_layout(parts).train_good)
    recipe = load_recipe(TINY, ["refine.steps=0"])
    plain = Bundle(build(recipe.model, with_refinement=False), recipe, bundle.threshold, {})
    with pytest.raises(BundleError, match="has no feature scores"):
        LeaveOut(plain, "plain.bundle", good)
    for some in (good[1:], []):
        with pytest.raises(DataError, match="which is not among these training photos"):
            LeaveOut(bundle, made, some)
    other = shutil.copytree(parts, tmp_path / "other")
    for path, of in zip(sorted((other / "train/a").iterdir()), sorted((parts / "test/new").iterdir()), strict=False):
        shutil.copyfile(of, path)
    with pytest.raises(DataError, match=r"patches in the memory bank of .* are of none of these 12"):
        LeaveOut(bundle, made, sorted(sample.image for sample in read_layout(other).train_good))
    refined, _ = renew(load_bundle(made), made, [parts / name for name in OTHERS])
    save_bundle(refined, tmp_path / "refined.bundle")
    with pytest.raises(BundleError, match="evaluate the bundle that it was refined from"):
        left_out_of(tmp_path / "refined.bundle", parts)
    with pytest.raises(ConfigError, match="too few are left"):
        left_out_of(made, parts)[1].without(Near("number", 105), [parts / COPY])


def test_features_are_compared_without_pretrained_sources_too(parts: Path, tmp_path: Path) -> None:
    made = trained(parts, tmp_path / "part.bundle", "model.familiarity=['encoder']", CROSS)
    _, leaving = left_out_of(made, parts)
    few, many = (leaving._near(Near("features", quantile), [parts / COPY])[0] for quantile in (1e-6, 0.9))
    assert [leaving.paths[number].name for number in few.nonzero()[0]] == ["num_3.png"]
    assert few.sum() < many.sum() <= 12
