"""A training from a folder to a bundle: resume after a real kill, determinism, threshold, refusals."""

from __future__ import annotations

import hashlib
import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from flawmap.bundle import load_bundle, load_general, round_weights, save_general
from flawmap.config import ThresholdSettings, dump_recipe, load_recipe, recipe_from_text
from flawmap.data.images import write_image
from flawmap.data.layouts import read_layout
from flawmap.data.surfaces import SURFACES, write_sample_parts
from flawmap.errors import TrainingError
from flawmap.model.discrete import DiscreteModel
from flawmap.train.loop import load_state
from flawmap.train.refine import smudge
from flawmap.train.run import for_few, train
from flawmap.train.sources import shaped
from flawmap.train.split import few_line, held_out_count, hold_out

TINY = [
    "image.height=64", "image.width=64", "model.codes=32", "model.code_length=8", "model.discrete_width=16",
    "model.discrete_hidden=8", "model.restriction_widths=[8, 8, 8]", "model.decoder=general", "model.detection_width=4",
    "model.refinement_width=4", "detect.steps=40", "detect.batch=2", "refine.steps=20", "refine.batch=2",
    "threshold.held_out_min=2", "run.threads=1", "run.checkpoint_seconds=0", "few.below=100",
]  # fmt: skip

STILL = ["few.mirror=none", *(f"few.{way}=0" for way in ("zoom", "stretch", "move", "grain", "contrast", "brightness"))]

PROGRAM = """
import sys
from pathlib import Path
from flawmap.bundle import load_general
from flawmap.config import load_recipe
from flawmap.data.images import write_image
from flawmap.data.layouts import read_layout
from flawmap.train.run import train
data, general, out = map(Path, sys.argv[1:4])
train(read_layout(data), load_recipe(None, sys.argv[4:]), out, general=load_general(general), resume=True, quiet=True)
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "metal"
    write_sample_parts(folder, SURFACES[0], size=64, train=12, good=2, bad=2, seed=0)
    return folder


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("general") / "general.safetensors"
    save_general(DiscreteModel(32, 8, 16, 8), path)
    return path


def start(parts: Path, general: Path, out: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(parts), str(general), str(out), *TINY])


def sha(bundle: Path) -> str:
    return hashlib.sha256((bundle / "weights.safetensors").read_bytes()).hexdigest()


@pytest.mark.parametrize(("stage", "first", "last"), [("detect", 5, 35), ("refine", 3, 17)])
def test_killed_training_resumes_to_the_same_weights(
    stage: str, first: int, last: int, parts: Path, general: Path, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(parts, general, whole).wait(120) == 0
    process = start(parts, general, killed)
    checkpoint, deadline = tmp_path / "killed.run" / f"{stage}.safetensors", time.monotonic() + 100
    while process.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists() and first <= load_state(checkpoint)[1]["step"] <= last:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    assert not killed.exists(), "no half-written bundle"
    assert start(parts, general, killed).wait(120) == 0
    assert sha(killed) == sha(whole)
    assert load_bundle(killed).threshold == load_bundle(whole).threshold
    assert not (tmp_path / "killed.run").exists()
    steps = [
        (record["stage"], record["step"])
        for record in map(json.loads, (killed / "metrics.jsonl").read_text().splitlines())
    ]
    assert steps == [("detect", 20), ("detect", 40), ("refine", 20)]


def test_another_seed_gives_other_weights(parts: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    discrete, listing = DiscreteModel(32, 8, 16, 8), read_layout(parts)
    settings = [*TINY, "detect.steps=2", "refine.steps=1"]
    for seed in (0, 1):
        train(
            listing,
            load_recipe(None, [*settings, f"run.seed={seed}"]),
            tmp_path / str(seed),
            general=discrete,
            quiet=True,
        )
    assert sha(tmp_path / "0") != sha(tmp_path / "1")


def test_training_leaves_the_discrete_model_as_it_was(parts: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    discrete, listing = DiscreteModel(32, 8, 16, 8), read_layout(parts)
    round_weights(discrete)
    bundle = train(
        listing,
        load_recipe(None, [*TINY, "detect.steps=2", "refine.steps=0"]),
        tmp_path / "b",
        general=discrete,
        quiet=True,
    )
    for name, value in discrete.state_dict().items():
        assert torch.equal(bundle.model.discrete.state_dict()[name], value)
    assert bundle.model.refinement is None
    assert bundle.provenance["trained_on"] == 10
    assert bundle.provenance["held_out"] == 2


@pytest.mark.parametrize(("below", "few"), [(10, False), (11, True)])
def test_few_photos_are_varied_and_keep_more_of_the_prior(below: int, few: bool, parts: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = [*TINY, "detect.steps=2", "refine.steps=0", f"few.below={below}", "few.rate=7e-4", "few.warm=none"]
    recipe = load_recipe(None, settings)
    bundle = train(read_layout(parts), recipe, tmp_path / "b", general=DiscreteModel(32, 8, 16, 8), quiet=True)
    assert bundle.provenance["trained_on"] == 10
    assert bundle.provenance["varied"] is few
    assert bundle.recipe.detect.rate == (7e-4 if few else recipe.detect.rate)
    assert bundle.recipe.model.warm == recipe.model.warm, "there is no prior to take anything from"
    with_prior = recipe.model_copy(update={"model": recipe.model.model_copy(update={"prior": "lean"})})
    assert for_few(with_prior, 10).model.warm == ("none" if few else recipe.model.warm)
    for limit, steps in ((0, 2), (1, 1), (9, 2)):
        limited = recipe.model_copy(update={"few": recipe.few.model_copy(update={"steps": limit})})
        assert for_few(limited, 10).detect.steps == (steps if few else 2)


@pytest.mark.parametrize("photos", [20, 1000, 5000])
def test_no_photos_are_few_where_that_is_turned_off(photos: int) -> None:
    recipe = load_recipe("fast", ["few.below=0"])
    assert recipe.few.until and for_few(recipe, photos) == recipe


def test_few_photos_are_varied_on_their_way_into_training(parts: Path, tmp_path: Path) -> None:
    shas = []
    for name, more in (("still", STILL), ("varied", [])):
        torch.manual_seed(0)
        settings = [*TINY, "detect.steps=2", "refine.steps=0", "few.rate=2e-4", *more]
        train(
            read_layout(parts), load_recipe(None, settings), tmp_path / name,
            general=DiscreteModel(32, 8, 16, 8), quiet=True,
        )  # fmt: skip
        shas.append(sha(tmp_path / name))
    assert shas[0] != shas[1]


def test_an_unfinished_run_is_never_overwritten_unasked(parts: Path, tmp_path: Path) -> None:
    (tmp_path / "b.run").mkdir()
    (tmp_path / "b.run" / "detect.safetensors").write_bytes(b"precious")
    with pytest.raises(TrainingError, match="--resume"):
        train(
            read_layout(parts), load_recipe(None, TINY), tmp_path / "b", general=DiscreteModel(32, 8, 16, 8), quiet=True
        )
    assert (tmp_path / "b.run" / "detect.safetensors").read_bytes() == b"precious"


def test_resume_with_other_settings_is_refused(parts: Path, tmp_path: Path) -> None:
    from flawmap.config import dump_recipe

    (tmp_path / "b.run").mkdir()
    (tmp_path / "b.run" / "recipe.toml").write_text(dump_recipe(load_recipe(None, [*TINY, "detect.rate=0.5"])))
    with pytest.raises(TrainingError, match="differs"):
        train(
            read_layout(parts),
            load_recipe(None, TINY),
            tmp_path / "b",
            general=DiscreteModel(32, 8, 16, 8),
            resume=True,
            quiet=True,
        )


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize(("count", "said"), [(0, "0 good images are too few"), (1, "1 good image is too few")])
def test_too_few_good_images_are_refused_in_one_line_that_says_how_many_are_needed(
    cross: bool, count: int, said: str
) -> None:
    with pytest.raises(TrainingError, match=said) as caught:
        hold_out([Path(str(i)) for i in range(count)], ThresholdSettings(overkill=0.05), 0, cross)
    assert ": 2 are needed at least, one of them to set the threshold, and 19 for an overkill of 5 %" in str(
        caught.value
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("count", "held_out"),
    [(2, 1), (3, 1), (4, 1), (8, 2), (9, 2), (12, 3), (20, 5), (31, 7), (32, 8), (38, 8), (85, 8)],
)
def test_of_few_images_no_more_than_a_quarter_is_held_out(count: int, held_out: int) -> None:
    paths = [Path(f"{number:03}") for number in range(count)]
    trained, apart = hold_out(paths, ThresholdSettings(), 0)
    assert (len(trained), len(apart)) == (count - held_out, held_out)
    crossed = hold_out(paths, ThresholdSettings(), 0, cross=True)
    assert crossed == ((trained, apart) if count >= 32 else (paths, [])), "of few cross-fitted ones none is held out"


def test_of_32_images_and_more_the_same_are_held_out_as_before() -> None:
    """The digest is of the photos that flawmap held out before it held out fewer of few; development sets have 38 and
    more."""
    found = hashlib.sha256()
    ways: tuple[Literal["folder", "run", "photo"], ...] = ("folder", "run", "photo")
    for by in ways:
        settings = ThresholdSettings(held_out_by=by)
        for count in [*range(32, 120), 200, 999]:
            paths = [Path(f"part{number % (5 + count % 9)}/{number:03}") for number in range(count)]
            trained, apart = hold_out(paths, settings, 3)
            assert hold_out(paths, settings, 3, cross=True) == (trained, apart)
            assert sorted(trained + apart) == sorted(paths)
            found.update(repr([str(path) for path in apart]).encode())
    assert found.hexdigest() == "adb5f0c83878ce7b29a92220f1cdd617927fdf5360fa3726497d22b2ae1c8a8c"


def test_the_setting_of_an_earlier_flawmap_holds_out_as_many_as_it_did() -> None:
    assert held_out_count(9, ThresholdSettings(held_out_most=1.0), True) == 8
    stated = load_recipe("fast", ["threshold.held_out_min=8"])
    assert held_out_count(9, stated.threshold, True) == 8, "a recipe of before, or a number that is asked for"
    assert recipe_from_text(dump_recipe(load_recipe("fast"))) == load_recipe("fast"), "what is written out stays"
    assert recipe_from_text(dump_recipe(stated)).threshold == stated.threshold
    with pytest.raises(TrainingError, match="8 good images are too few: 9 are needed"):
        held_out_count(8, ThresholdSettings(held_out_most=1.0), False)


def test_what_few_photos_can_promise_is_said_in_one_line() -> None:
    fast, paper = load_recipe("fast"), load_recipe("paper")
    assert few_line(9, 0, fast) == (
        "9 good photos are few: all are learnt from, and each is compared with the others; so the threshold can "
        "promise no less than 15 % overkill, and 5 % takes 19 that are told of"
    )
    assert few_line(20, 0, fast).endswith("so the threshold can promise no less than 9.5 % overkill")
    assert "2 of them are held out to set the threshold; so the threshold can promise no less than 33 %" in few_line(
        9, 2, paper
    )
    assert few_line(38, 8, fast) == few_line(100, 10, paper) == ""


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(60, 20)], (192, 64)),
        ([(20, 30), (20, 30), (30, 20)], (64, 96)),
        ([(10, 200)], (64, 256)),
        ([(33, 32)], (64, 64)),
    ],
)
def test_the_networks_input_takes_the_photos_shape(
    sizes: list[tuple[int, int]], expected: tuple[int, int], tmp_path: Path
) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        write_image(path, np.zeros((*size, 3), np.uint8))
    settings = load_recipe(None, ["image.height=64", "image.width=128", "image.aspect=photos"]).image
    found = shaped(settings, paths)
    assert (found.height, found.width) == expected
    assert shaped(found, paths) == found, "settled once and for all"
    assert shaped(settings.model_copy(update={"aspect": "fixed"}), paths).width == 128


def test_a_bundle_keeps_the_shape_its_photos_gave_it(general: Path, tmp_path: Path) -> None:
    for index in range(6):
        path = tmp_path / "data/train/good" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.random.default_rng(index).integers(0, 255, (96, 48, 3), np.uint8))
    recipe = load_recipe(None, [*TINY, "image.aspect=photos", "detect.steps=2", "refine.steps=0"])
    bundle = train(read_layout(tmp_path / "data"), recipe, tmp_path / "b", general=load_general(general), quiet=True)
    assert (bundle.recipe.image.height, bundle.recipe.image.width) == (128, 64)
    assert load_bundle(tmp_path / "b").recipe.image == bundle.recipe.image


def test_a_tenth_but_at_least_eight_images_are_held_out() -> None:
    paths = [Path(f"{i:03}") for i in range(200)]
    train_paths, held_out = hold_out(paths, ThresholdSettings(), 0)
    assert (len(train_paths), len(held_out)) == (180, 20)
    assert sorted(train_paths + held_out) == paths
    assert len(hold_out(paths[:40], ThresholdSettings(), 0)[1]) == 8


def test_whole_folders_are_held_out_where_there_are_many() -> None:
    paths = [Path(f"part{folder:02}/{i}.png") for folder in range(20) for i in range(7)]
    train_paths, held_out = hold_out(paths, ThresholdSettings(), 0)
    assert sorted(train_paths + held_out) == sorted(paths)
    assert 14 <= len(held_out) <= 28
    assert {path.parent for path in train_paths}.isdisjoint(path.parent for path in held_out)
    assert hold_out(paths, ThresholdSettings(), 0)[1] == held_out
    assert hold_out(paths, ThresholdSettings(), 1)[1] != held_out
    any_photos = hold_out(paths, ThresholdSettings(held_out_by="photo"), 0)[1]
    assert len(any_photos) == 14
    assert len({path.parent for path in any_photos}) > 2


def test_stretches_in_the_order_of_names_are_held_out() -> None:
    paths = [Path(f"good/{i}.png") for i in range(100)]
    settings = ThresholdSettings(held_out_by="run", held_out=0.2)
    train_paths, held_out = hold_out(paths, settings, 0)
    assert sorted(train_paths + held_out) == sorted(paths) and len(held_out) == 20
    numbers = sorted(int(path.stem) for path in held_out)
    assert sum(after - before > 1 for before, after in itertools.pairwise(numbers)) <= 3, "four stretches of five"
    assert hold_out(paths, settings, 0)[1] == held_out != hold_out(paths, settings, 1)[1]
    folders = [Path(f"part{folder:02}/{i}.png") for folder in range(20) for i in range(7)]
    assert hold_out(folders, settings, 0) == hold_out(folders, ThresholdSettings(held_out=0.2), 0)


def test_any_photos_are_held_out_where_folders_are_few_or_one_holds_nearly_all() -> None:
    few = [Path(f"day{folder}/{i:02}.png") for folder in range(7) for i in range(20)]
    assert len(hold_out(few, ThresholdSettings(), 0)[1]) == 14
    uneven = [Path(f"all/{i:03}.png") for i in range(200)] + [Path(f"one{i}/0.png") for i in range(9)]
    assert len(hold_out(uneven, ThresholdSettings(), 0)[1]) == 21


def test_smudges_stay_under_their_mask() -> None:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(6, 16, 16, dtype=torch.bool)
    masks[:, 4:9, 3:12] = True
    smudged = smudge(images, masks, torch.Generator().manual_seed(1), 0.8)
    outside = ~masks.unsqueeze(1).expand_as(images)
    assert torch.equal(smudged[outside], images[outside])
    assert ((smudged - images).abs().amax(1)[masks] > 0).all()
    spread = smudged[:, :, 4:9, 3:12].std(dim=(2, 3)) / images[:, :, 4:9, 3:12].std(dim=(2, 3))
    assert (spread < 0.81).all(), "at least a fifth of what is seen is the colour"
