"""A training goes on with what it was begun with alone, and says what differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from flawmap.config import dump_recipe, load_recipe
from flawmap.data.defects import read_defects
from flawmap.data.images import write_image
from flawmap.data.layouts import read_layout
from flawmap.errors import CheckpointError, TrainingError
from flawmap.model.discrete import DiscreteModel
from flawmap.train.resume import BEGUN_WITH, check_same, differences, given_to_pretraining, note_given
from flawmap.train.run import train

TINY = [
    "image.height=32", "image.width=32", "model.codes=16", "model.code_length=8", "model.discrete_width=8",
    "model.discrete_hidden=4", "model.restriction_widths=[8, 8, 8]", "model.decoder=general", "model.detection_width=4",
    "detect.steps=2", "detect.batch=2", "refine.steps=0", "threshold.held_out_min=2", "run.threads=1",
    "threshold.smallest_found=false",
]  # fmt: skip


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(12):
        draw(tmp_path / "data" / f"{number:02}.png", number)
    for number in range(2):
        draw(tmp_path / "bad" / f"{number}.png", 100 + number)
        write_image(tmp_path / "bad" / f"{number}_mask.png", np.eye(32, dtype=np.uint8) * 255)
    return tmp_path / "data"


def go_on(data: Path, *settings: str, resume: bool = True, seed: int = 0, defects: bool = False) -> list[str]:
    """Train as asked; what it said."""
    torch.manual_seed(seed)
    said: list[str] = []
    train(
        read_layout(data), load_recipe(None, [*TINY, *settings]), data.parent / "out",
        general=DiscreteModel(16, 8, 8, 4), resume=resume, quiet=True, say=said.append,
        defects=read_defects(data.parent / "bad") if defects else None,
    )  # fmt: skip
    return said


@pytest.fixture
def begun(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that was stopped at its first step; its folder."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("flawmap.train.run.train_detection", stop)
        with pytest.raises(KeyboardInterrupt):
            go_on(data, resume=False, defects=True)
    return data.parent / "out.run"


def swap(data: Path) -> None:
    one, other = (data / "00.png").read_bytes(), (data / "01.png").read_bytes()
    (data / "00.png").write_bytes(other)
    (data / "01.png").write_bytes(one)


def other_product(data: Path) -> None:
    for number in range(12):
        draw(data / f"{number:02}.png", 50 + number)


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (other_product, "good photos: 12 changed (00.png, 01.png, 02.png, …)"),
    (lambda data: draw(data / "99.png", 99), "good photos: 1 added (99.png)"),
    (lambda data: (data / "03.png").unlink(), "good photos: 1 removed (03.png)"),
    (lambda data: draw(data / "03.png", 99), "good photos: 1 changed (03.png)"),
    (lambda data: (data / "03.png").rename(data / "a.png"), "good photos: 1 added (a.png), 1 removed (03.png)"),
    (swap, "good photos: 2 changed (00.png, 01.png)"),
    (lambda data: shutil.copyfile(data / "03.png", data / "copy.png"), "good photos: 1 added (copy.png)"),
    (lambda data: draw(data.parent / "bad" / "1.png", 7), "defective photos: 1 changed (1.png)"),
    (lambda data: write_image(data.parent / "bad" / "0_mask.png", np.eye(32, dtype=np.uint8)), "masks: 1 changed (0"),
    (lambda data: (data.parent / "bad" / "0_mask.png").unlink(), "masks: 1 removed (0.png)"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_training_does_not_go_on_with_other_photos(
    change: Callable[[Path], object], said: str, begun: Path, data: Path
) -> None:
    before = {file.name: file.read_bytes() for file in begun.iterdir()}
    change(data)
    with pytest.raises(TrainingError) as caught:
        go_on(data, defects=True)
    message = str(caught.value)
    assert said in message and "\n" not in message and str(begun) in message
    assert message.endswith("to start anew")
    assert {file.name: file.read_bytes() for file in begun.iterdir()} == before, "it can still go on"


def test_without_the_defects_it_began_with_it_does_not_go_on(begun: Path, data: Path) -> None:
    with pytest.raises(TrainingError, match=r"defective photos: 2 removed \(0\.png, 1\.png\); masks: 2 removed"):
        go_on(data)


def test_another_general_model_is_noticed(begun: Path, data: Path) -> None:
    with pytest.raises(TrainingError, match=r"files: 1 changed \(--general\)"):
        go_on(data, defects=True, seed=1)


def test_another_ignore_mask_of_the_same_name_is_noticed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = data.parent / "ignore.png"
    write_image(mask, np.eye(32, dtype=np.uint8) * 255)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("flawmap.train.run.train_detection", stop)
        with pytest.raises(KeyboardInterrupt):
            go_on(data, f"image.ignore={mask}", resume=False)
    write_image(mask, np.eye(32, dtype=np.uint8)[::-1] * 255)
    with pytest.raises(TrainingError, match=r"files: 1 changed \(image\.ignore\)"):
        go_on(data, f"image.ignore={mask}")


def test_the_same_photos_in_a_folder_of_another_name_are_the_same(begun: Path, data: Path) -> None:
    shutil.copytree(data, data.parent / "elsewhere")
    assert not [line for line in go_on(data.parent / "elsewhere", defects=True) if "hashes" in line]
    assert (data.parent / "out" / "bundle.json").is_file()
    assert not begun.exists()


def test_photos_moved_to_other_folders_are_told_as_such() -> None:
    begun = {"1.png": "a", "2.png": "b", "3.png": "c"}
    assert differences(begun, dict(begun)) == []
    assert differences(begun, {"x/1.png": "a", "x/2.png": "b", "y/3.png": "c"}) == ["the same files, in other folders"]
    assert differences(begun, {"x/1.png": "a", "x/2.png": "b", "y/4.png": "d"}) == [
        "1 added (4.png)", "1 removed (3.png)"
    ]  # fmt: skip


def test_a_training_begun_by_an_earlier_flawmap_goes_on_and_says_what_cannot_be_checked(
    begun: Path, data: Path
) -> None:
    (begun / BEGUN_WITH).unlink()
    assert [line for line in go_on(data, defects=True) if "that these are the same cannot be checked" in line]
    assert (data.parent / "out" / "bundle.json").is_file()


def test_a_setting_that_differs_is_named(begun: Path, data: Path) -> None:
    with pytest.raises(TrainingError, match=r"differs from the recipe given: detect\.rate is .* there, and 0\.5 here"):
        go_on(data, "detect.rate=0.5", defects=True)


def test_a_setting_that_came_with_a_newer_flawmap_is_no_other_recipe(begun: Path, data: Path) -> None:
    text = (begun / "recipe.toml").read_text()
    kept = [line for line in text.splitlines() if not line.startswith(("smallest_found", "disk_cache_gb"))]
    (begun / "recipe.toml").write_text("\n".join(kept).replace("[threshold]", "[threshold]\nsmallest_found = false"))
    go_on(data, defects=True)
    assert (data.parent / "out" / "bundle.json").is_file()


@pytest.mark.parametrize("name", [BEGUN_WITH, "recipe.toml"])
@pytest.mark.parametrize("text", ["", "{", "[3]", '{"good photos": 3}', "\xff"])
def test_a_damaged_note_is_named(name: str, text: str, begun: Path, data: Path) -> None:
    if (name, text) == ("recipe.toml", ""):
        pytest.skip("an empty recipe is one: the defaults")
    (begun / name).write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=name) as caught:
        go_on(data, defects=True)
    assert "\n" not in str(caught.value)


def test_resume_where_nothing_was_begun_says_so(data: Path) -> None:
    assert [line for line in go_on(data) if "there is no unfinished training" in line]


def test_a_pretraining_goes_on_with_the_same_images_and_settings_alone(data: Path, tmp_path: Path) -> None:
    images, recipe = sorted(data.iterdir()), load_recipe(None, TINY)
    assert not check_same(tmp_path, given_to_pretraining(images, recipe, None))
    note_given(tmp_path, given_to_pretraining(images, recipe, None))
    assert check_same(tmp_path, given_to_pretraining(images, recipe, None))
    with pytest.raises(TrainingError, match=r"images: 1 removed \(11\.png\)"):
        check_same(tmp_path, given_to_pretraining(images[:-1], recipe, None))
    other = load_recipe(None, [*TINY, "pretrain.rate=0.5"])
    assert dump_recipe(other) != dump_recipe(recipe)
    with pytest.raises(TrainingError, match=r"files: 1 changed \(the recipe's settings\)"):
        check_same(tmp_path, given_to_pretraining(images, other, None))
    assert set(json.loads((tmp_path / BEGUN_WITH).read_text())) == {"images", "files"}
