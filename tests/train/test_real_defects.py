from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from flawmap import cli
from flawmap.bundle import build, load_bundle, save_general
from flawmap.config import load_recipe
from flawmap.data.images import write_image
from flawmap.data.real import Real
from flawmap.data.surfaces import write_sample_parts
from flawmap.model.discrete import DiscreteModel
from flawmap.train.detect import judge_real, real_loss
from flawmap.train.losses import highest_loss

TINY = Path(__file__).parents[1] / "tiny.toml"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    write_sample_parts(folder / "parts", "brushed-metal", 64, 12, 4, 6, 0)
    sizes = load_recipe(TINY).model
    with torch.random.fork_rng():
        torch.manual_seed(0)
        general = DiscreteModel(sizes.codes, sizes.code_length, sizes.discrete_width, sizes.discrete_hidden)
    save_general(general, folder / "general.safetensors")
    defects = folder / "defects"
    defects.mkdir()
    taken = sorted((folder / "parts" / "test").glob("*/*.png"))
    for path in [path for path in taken if path.parent.name != "good"][:2]:
        shutil.copy(path, defects / f"{path.parent.name}-{path.name}")
        mask = folder / "parts" / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
        shutil.copy(mask, defects / f"{path.parent.name}-{path.stem}_mask.png")
    return folder


def train(place: Path, out: Path, *more: object, steps: int = 6) -> Result:
    how = ["--config", TINY, "--general", place / "general.safetensors", "--set", f"detect.steps={steps}"]
    return run("train", place / "parts", "--out", out, *how, "--set", "detect.views=3", "--set", "detect.replay=4",
               "--quiet", *more)  # fmt: skip


def weights(bundle: Path) -> bytes:
    return (bundle / "weights.safetensors").read_bytes()


def test_real_defects_change_what_is_learnt_and_are_remembered(place: Path, tmp_path: Path) -> None:
    assert train(place, tmp_path / "plain.bundle").exit_code == 0
    result = train(place, tmp_path / "real.bundle", "--defects", place / "defects")
    assert result.exit_code == 0, result.output
    assert "2 defective images to learn from too, 2 of them with a mask" in result.stdout
    assert weights(tmp_path / "plain.bundle") != weights(tmp_path / "real.bundle")
    assert len(load_bundle(tmp_path / "real.bundle").provenance["real_defects"]) == 2
    assert load_bundle(tmp_path / "plain.bundle").provenance["real_defects"] == []
    first = json.loads((tmp_path / "real.bundle" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["real"] > 0


def test_restriction_and_drawing_learn_nothing_from_real_defects(place: Path) -> None:
    recipe = load_recipe(TINY)
    model = build(recipe.model, with_refinement=False)
    model.train()
    model.discrete.requires_grad_(False)
    images = torch.rand(2, 3, 64, 64)
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 10:20, 10:20] = True
    loss = real_loss(
        judge_real(model, images), Real(images, masks, torch.tensor([True, False]), torch.ones_like(masks)), recipe
    )
    loss.backward()
    assert all(parameter.grad is None for parameter in model.object_decoder.parameters())
    assert all(parameter.grad is None for parameter in model.fine_restriction.parameters())
    assert all(parameter.grad is not None for parameter in model.detection.parameters())
    assert model.object_decoder.training


def test_the_most_suspicious_pixels_of_a_photo_without_a_mask_are_raised() -> None:
    logits = torch.zeros(1, 2, 20, 20)
    logits[0, 1, 3, 4] = 2.0
    logits.requires_grad_(True)
    highest_loss(logits, 1 / 400).backward()
    gradient = logits.grad
    assert gradient is not None
    assert gradient[0, 1, 3, 4] < 0 < gradient[0, 0, 3, 4]
    assert int((gradient != 0).sum()) == 2
    ignored = torch.zeros(1, 20, 20, dtype=torch.bool)
    ignored[0, 3, 4] = True
    logits.grad = None
    highest_loss(logits, 1 / 400, ignored).backward()
    assert logits.grad is not None
    assert logits.grad[0, 1, 3, 4] == 0  # outside what counts
    assert int((logits.grad != 0).sum()) == 2


def test_a_photo_without_a_mask_weighs_as_much_as_one_with(place: Path) -> None:
    recipe = load_recipe(TINY, ["real.weight=3"])
    logits, mask = torch.randn(2, 2, 16, 16), torch.zeros(2, 16, 16, dtype=torch.bool)
    mask[:, 4:8, 4:8] = True
    images = torch.zeros(2, 3, 16, 16)

    def loss(*masked: bool) -> float:
        return float(real_loss(logits, Real(images, mask, torch.tensor(masked), torch.ones_like(mask)), recipe))

    both = loss(True, False)
    with_mask = float(
        real_loss(logits[:1], Real(images[:1], mask[:1], torch.tensor([True]), torch.ones_like(mask[:1])), recipe)
    )
    without = float(
        real_loss(logits[1:], Real(images[1:], mask[1:], torch.tensor([False]), torch.ones_like(mask[1:])), recipe)
    )
    assert both == pytest.approx((with_mask + without) / 2, rel=1e-5)


def test_a_training_with_real_defects_resumes_to_the_same_weights(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawmap.train.loop import Stage

    whole, stopped = tmp_path / "whole.bundle", tmp_path / "stopped.bundle"
    assert train(place, whole, "--defects", place / "defects").exit_code == 0

    class Killed(Exception):
        pass

    save = Stage.save

    def save_and_die(self: Stage, step: int) -> None:
        save(self, step)
        if step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "save", save_and_die)
        with pytest.raises(Killed):
            train(place, stopped, "--defects", place / "defects", "--set", "run.checkpoint_seconds=0")
    result = train(place, stopped, "--defects", place / "defects", "--set", "run.checkpoint_seconds=0", "--resume")
    assert result.exit_code == 0, result.output
    assert weights(whole) == weights(stopped)


def test_a_training_resumes_with_its_own_defects_alone(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flawmap.train.loop import Stage

    class Killed(Exception):
        pass

    def die(self: Stage, step: int) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "save", die)
        with pytest.raises(Killed):
            train(place, tmp_path / "out.bundle", "--defects", place / "defects")
    without = train(place, tmp_path / "out.bundle", "--resume")
    assert without.exit_code == 2
    assert "was begun with other files; defective photos: " in without.stderr
    other = tmp_path / "other"
    shutil.copytree(place / "defects", other)
    next(other.glob("*_mask.png")).write_bytes(next(other.glob("*-*[0-9].png")).read_bytes())
    changed = train(place, tmp_path / "out.bundle", "--defects", other, "--resume")
    assert "was begun with other files; masks: 1 changed (" in changed.stderr
    assert train(place, tmp_path / "out.bundle", "--defects", place / "defects", "--resume").exit_code == 0


def test_no_part_is_tested_on_that_was_learnt_from(place: Path, tmp_path: Path) -> None:
    train(place, tmp_path / "real.bundle", "--defects", place / "defects")
    result = run("evaluate", tmp_path / "real.bundle", place / "parts", "--out", tmp_path / "out")
    assert "2 images were learnt from as real defects, and are left out" in result.stdout
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (metrics["good"], metrics["defective"], metrics["learnt_from"]) == (4, 4, 2)
    assert "Left out, since they were learnt from" in (tmp_path / "out" / "report.html").read_text()
    (tmp_path / "tests").mkdir()
    shutil.copytree(place / "defects", tmp_path / "tests" / "bad")
    shutil.copytree(place / "parts" / "test" / "good", tmp_path / "tests" / "good")
    copied = run("evaluate", tmp_path / "real.bundle", tmp_path / "tests")  # the files, not their names, tell
    assert copied.exit_code == 2
    assert "all of these images were learnt from as real defects" in copied.stderr


def test_a_folder_without_defects_is_refused_before_the_training(place: Path, tmp_path: Path) -> None:
    result = train(place, tmp_path / "out.bundle", "--defects", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "out.bundle.run").exists()


def test_a_defect_that_cannot_be_learnt_from_is_refused_and_leaves_nothing_in_the_way(
    place: Path, tmp_path: Path
) -> None:
    defects = tmp_path / "defects"
    shutil.copytree(place / "defects", defects)
    mask = next(defects.glob("*_mask.png"))
    right = mask.read_bytes()
    write_image(mask, np.zeros((64, 64), np.uint8))
    refused = train(place, tmp_path / "out.bundle", "--defects", defects)
    assert refused.exit_code == 2 and "marks no pixel" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["defects"]
    mask.write_bytes(right)
    assert train(place, tmp_path / "out.bundle", "--defects", defects).exit_code == 0
