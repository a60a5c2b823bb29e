"""The general prior: crops made like industrial photos, training with resume, and what a training takes from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flawmap.bundle import Prior, build, load_prior, save_general, save_prior
from flawmap.config import Recipe, load_recipe
from flawmap.data.images import write_image
from flawmap.data.surfaces import SURFACES, draw_good
from flawmap.errors import ConfigError
from flawmap.model.discrete import DiscreteModel
from flawmap.train.loop import initial_weights
from flawmap.train.prior import NaturalImages, train_prior, varied
from flawmap.train.run import for_few, start_weights

SMALL = [
    "image.height=32", "image.width=32", "model.codes=32", "model.code_length=8", "model.discrete_width=16",
    "model.discrete_hidden=8", "model.restriction_widths=[8, 8, 8]", "model.detection_width=4",
    "model.decoder=general", "model.norm=batch", "model.detection_scale=2", "model.detection_sees_image=true",
    "anomalies.place=image", "detect.steps=4", "detect.batch=4", "run.threads=1", "run.precision=float32",
    "run.checkpoint_seconds=0",
]  # fmt: skip


def small(*more: str) -> Recipe:
    return load_recipe(None, [*SMALL, *more])


def discrete(seed: int = 0) -> DiscreteModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DiscreteModel(32, 8, 16, 8)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for index in range(10):
        image = draw_good(SURFACES[index % len(SURFACES)], 64, np.random.default_rng(index))
        write_image(folder / f"{index:02}.png", (image * 255).astype(np.uint8))
    return sorted(folder.iterdir())


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_varied_images_stay_images_and_do_vary() -> None:
    images = torch.rand(64, 3, 24, 24, generator=seeded(1))
    made = varied(images, seeded())
    assert made.shape == images.shape
    assert made.isfinite().all()
    assert float(made.min()) >= -1e-6
    assert float(made.max()) <= 1 + 1e-6
    grey = (made.amax(1) - made.amin(1)).flatten(1).amax(1) < 1e-5
    assert 0.25 < float(grey.float().mean()) < 0.75
    roughness = made.diff(dim=-1).abs().flatten(1).mean(1) / images.diff(dim=-1).abs().flatten(1).mean(1)
    assert float((roughness < 0.7).float().mean()) > 0.3, "enlarged or flattened ones are smoother"
    assert torch.equal(made, varied(images, seeded()))


def test_natural_images_come_in_the_asked_size(photos: list[Path]) -> None:
    batch = NaturalImages(photos, 32).draw(5, seeded(), rotate=0, degrees=0, border="zeros", crop=0)
    assert batch.shape == (5, 3, 32, 32)
    assert batch.dtype == torch.float32


def test_a_stopped_prior_goes_on_to_the_same_weights(photos: list[Path], tmp_path: Path) -> None:
    for name in ("whole", "part"):
        (tmp_path / name).mkdir()
    recipe = small("detect.settle=0.7", "detect.views=3", "detect.replay=2")
    whole = train_prior(photos, recipe, discrete(), tmp_path / "whole", quiet=True).state_dict()

    class Stopped(Exception):
        pass

    draws = NaturalImages.draw
    calls = 0

    def draw(self: NaturalImages, *arguments: object, **named: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Stopped
        return draws(self, *arguments, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NaturalImages, "draw", draw)
        with pytest.raises(Stopped):
            train_prior(photos, recipe, discrete(), tmp_path / "part", quiet=True)
    assert any((tmp_path / "part").iterdir())
    again = train_prior(photos, recipe, discrete(), tmp_path / "part", resume=True, quiet=True).state_dict()
    for name, tensor in whole.items():
        assert torch.equal(tensor, again[name]), name
    start = discrete().state_dict()
    for name, tensor in start.items():
        assert torch.equal(whole["discrete." + name], tensor), "the discrete model stays as it is"
    assert not torch.equal(whole["object_decoder.conv.weight"], start["decoder.conv.weight"])


def test_once_settled_the_drawings_stay_and_detection_goes_on(photos: list[Path], tmp_path: Path) -> None:
    found = {}
    for settle in (0, 0.5, 1):
        (tmp_path / str(settle)).mkdir()
        recipe = small("detect.steps=4", f"detect.settle={settle}")
        found[settle] = train_prior(photos, recipe, discrete(), tmp_path / str(settle), quiet=True).state_dict()
    with initial_weights(small().run.seed):
        start = build(small().model, with_refinement=False).state_dict()
    start |= {"object_decoder." + name: tensor for name, tensor in discrete().decoder.state_dict().items()}
    drawn = [name for name in start if name.startswith(("coarse_restriction", "fine_restriction", "object_decoder"))]
    for name in drawn:
        assert torch.equal(found[0][name], start[name]), f"{name} stays from the start, running means included"
    for one, other in ((0, 0.5), (0.5, 1)):
        assert any(not torch.equal(found[one][name], found[other][name]) for name in drawn)
    for weights in found.values():
        assert not torch.equal(weights["detection.out.weight"], start["detection.out.weight"])


def test_the_drawing_has_a_rate_of_its_own(photos: list[Path], tmp_path: Path) -> None:
    found = {}
    for factor in (1e-6, 1):
        folder = tmp_path / str(factor)
        folder.mkdir()
        recipe = small("detect.steps=3", f"detect.drawing_rate={factor}")
        found[factor] = dict(train_prior(photos, recipe, discrete(), folder, quiet=True).named_parameters())
    with initial_weights(small().run.seed):
        model = build(small().model, with_refinement=False)
    model.object_decoder.load_state_dict(discrete().decoder.state_dict())
    for name, start in model.named_parameters():
        if name.startswith(("coarse_restriction", "fine_restriction", "object_decoder")):
            assert torch.allclose(found[1e-6][name], start, atol=1e-6), name
        if name.endswith(("out.weight", "conv.weight")) and not name.startswith("discrete"):
            assert not torch.allclose(found[1][name], start, atol=1e-6), name
    assert not torch.allclose(
        found[1e-6]["detection.out.weight"], dict(model.named_parameters())["detection.out.weight"]
    )


@pytest.mark.parametrize("name", ["accurate", "fast", "demo"])
def test_the_shipped_recipes_start_from_the_shipped_prior(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.model.prior == "lean"
    prior = load_prior("lean").model
    model = build(recipe.model, with_refinement=recipe.refine.steps > 0)
    start_weights(model, recipe.model, None)
    assert torch.equal(
        model.object_decoder.state_dict()["conv.weight"], prior.object_decoder.state_dict()["conv.weight"]
    )
    assert torch.equal(model.discrete.fine_codebook.vectors, prior.discrete.fine_codebook.vectors)


def test_detection_may_have_a_norm_of_its_own() -> None:
    kinds = {}
    for detection_norm in ("same", "instance"):
        model = build(small("model.norm=batch", f"model.detection_norm={detection_norm}").model, with_refinement=True)
        kinds[detection_norm] = [
            any(isinstance(layer, nn.InstanceNorm2d) for layer in part.modules())
            for part in (model.detection, model.coarse_restriction, model.refinement)
            if part is not None
        ]
    assert kinds == {"same": [False] * 3, "instance": [True, False, False]}


def prior_file(tmp_path: Path, seed: int = 3) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(small().model, with_refinement=False)
    file = tmp_path / "prior.safetensors"
    save_prior(Prior(model, small().model, {}), file, dtype="float32")
    return file


def test_training_starts_from_the_prior_from_its_drawing_or_from_its_discrete_model_alone(tmp_path: Path) -> None:
    file = prior_file(tmp_path)
    for warm in ("all", "drawing", "none"):
        recipe = small(f"model.prior={file}", f"model.warm={warm}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(recipe.model, with_refinement=False)
            torch.manual_seed(3)
            wanted = build(recipe.model, with_refinement=False)
        start_weights(model, recipe.model, None)
        assert torch.equal(model.discrete.to_fine.weight, wanted.discrete.to_fine.weight)
        assert torch.equal(model.detection.out.weight, wanted.detection.out.weight) == (warm == "all")
        assert torch.equal(model.fine_restriction.out.weight, wanted.fine_restriction.out.weight) == (warm != "none")
        drawn = wanted.discrete.decoder if warm == "none" else wanted.object_decoder
        assert torch.equal(model.object_decoder.conv.weight, drawn.conv.weight)  # type: ignore[union-attr]


def test_a_prior_of_other_sizes_and_a_general_model_beside_it_are_refused(tmp_path: Path) -> None:
    file = prior_file(tmp_path)
    recipe = small(f"model.prior={file}", "model.detection_width=8")
    with pytest.raises(ConfigError, match=r"model\.detection_width is 8, and 4 in the prior"):
        start_weights(build(recipe.model, with_refinement=False), recipe.model, None)
    recipe = small(f"model.prior={file}", "model.detection_width=8", "model.warm=drawing")
    start_weights(build(recipe.model, with_refinement=False), recipe.model, None)  # detection is not taken
    recipe = small(f"model.prior={file}", "model.norm=instance", "model.warm=drawing")
    with pytest.raises(ConfigError, match=r"model\.norm is instance"):
        start_weights(build(recipe.model, with_refinement=False), recipe.model, None)
    recipe = small(f"model.prior={file}")
    with pytest.raises(ConfigError, match="leave out --general"):
        start_weights(build(recipe.model, with_refinement=False), recipe.model, discrete())


def test_the_command_makes_a_prior_for_a_given_discrete_model(photos: list[Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flawmap.cli import app

    card = {"psnr": 20.0, "coarse_used": 1.0, "fine_used": 0.5}
    save_general(discrete(), tmp_path / "g.safetensors", card)
    out = tmp_path / "p.safetensors"
    options = [option for setting in (*SMALL, "pretrain.prior=true") for option in ("--set", setting)]
    given = ["pretrain", *map(str, photos), "--general", str(tmp_path / "g.safetensors"), "--out", str(out), "--quiet"]
    result = CliRunner().invoke(app, [*given, *options])
    assert result.exit_code == 0, result.output
    assert load_prior(out).settings == small().model
    assert out.with_suffix("").with_suffix(".metrics.jsonl").exists()


def test_a_prior_may_be_trained_on_from_another(photos: list[Path], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flawmap.cli import app

    first, out = prior_file(tmp_path), tmp_path / "second.safetensors"
    card = {"psnr": 20.0, "coarse_used": 1.0, "fine_used": 0.5}
    save_prior(Prior(load_prior(first).model, small().model, card), first, dtype="float32")
    settings = (*SMALL, "pretrain.prior=true", f"model.prior={first}", "detect.steps=1", "detect.rate=1e-9")
    options = [option for setting in settings for option in ("--set", setting)]
    given = ["pretrain", *map(str, photos), "--out", str(out), "--quiet", *options]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    old, new = load_prior(first), load_prior(out)
    assert new.settings.prior == "" and new.card == card
    for name in ("discrete.to_fine.weight", "detection.out.weight", "object_decoder.conv.weight"):
        assert torch.allclose(old.model.state_dict()[name], new.model.state_dict()[name], atol=1e-3), name
    clash = CliRunner().invoke(app, [*given, "--overwrite", "--general", str(tmp_path / "g.safetensors")])
    assert clash.exit_code != 0 and "leave out --general" in clash.output


@pytest.mark.parametrize("photos", [20, 1000])
@pytest.mark.parametrize("name", ["accurate", "fast", "demo"])
def test_the_shipped_recipes_fit_their_prior_from_few_photos_and_from_many(name: str, photos: int) -> None:
    recipe = for_few(load_recipe(name), photos)
    start_weights(build(recipe.model, with_refinement=False), recipe.model, None)
