"""What is painted too faintly to be seen: the setting reaches the samples, and they reach the losses."""

from __future__ import annotations

import pytest
import torch

from flawmap.bundle import build, load_prior
from flawmap.config import AnomalySettings, DetectSettings, load_recipe
from flawmap.train import detect
from flawmap.train.detect import Sample, detection_losses, with_defects
from flawmap.train.losses import extremes_loss, focal_loss


def sample(**settings: object) -> Sample:
    recipe = load_recipe("fast")
    model = build(recipe.model, with_refinement=False)
    model.discrete.load_state_dict(load_prior("lean").model.discrete.state_dict())
    anomalies = AnomalySettings.model_validate({**recipe.anomalies.model_dump(), "empty": 0.0, **settings})
    generator = torch.Generator().manual_seed(0)
    batch = torch.rand(4, 3, 64, 64, generator=generator)
    return with_defects(model, batch, anomalies, generator, torch.device("cpu"))


def test_faint_is_good_or_left_out() -> None:
    ignored, good = sample(faint="ignored"), sample(faint="good")
    assert torch.equal(ignored.image, good.image)
    assert ignored.unsure.any() and not (ignored.unsure & ignored.mask).any()
    assert not good.unsure.any()
    assert (good.mask & ~ignored.mask).sum() < (ignored.mask & ~good.mask).sum(), "judged by its own pixels"


def test_deformed_codes_are_painted_when_asked_for() -> None:
    drawn = sample(shift=0.0, blend=0.0), sample(shift=0.0, blend=0.0, deform=1.0)
    assert not torch.equal(drawn[0].image, drawn[1].image), "else the paper's rule makes them all"


def test_losses_leave_out_what_is_unsure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 32, 32, generator=generator)
    mask, unsure = torch.rand(2, 2, 32, 32, generator=generator) < torch.tensor([0.2, 0.4])[:, None, None, None]
    unsure = unsure & ~mask
    found = detection_losses(logits, mask, unsure, DetectSettings(extremes_weight=0.1))
    assert found["focal"] == focal_loss(logits, mask, unsure=unsure) < focal_loss(logits, mask)
    assert found["extremes"] == extremes_loss(logits, mask, unsure=unsure) != extremes_loss(logits, mask)


@pytest.mark.parametrize(("streaks", "wanted"), [(True, 0), (False, 20)])
def test_surfaces_with_streaks_get_no_cracks(streaks: bool, wanted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from flawmap.data import shapes

    drawn = []
    original = shapes.crack
    monkeypatch.setattr(shapes, "crack", lambda *given: drawn.append(1) or original(*given))
    monkeypatch.setattr(detect, "streaked", lambda images: torch.full((len(images),), streaks))
    for _ in range(5):
        sample(lines=1.0, blobs=0.0, cracks=1.0)
    assert len(drawn) == wanted
