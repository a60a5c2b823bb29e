"""bench/: what flawmap is measured against computes what it should."""

import pytest
import torch

from efficientad import EfficientAD
from flawmap.bundle import build, load_general
from flawmap.config import load_recipe
from flawmap.model.dsr import DSR
from flawmap.train.loop import initial_weights
from flops import gflop
from train_step import curves
from transcription import TrainingStep, Transcription


@pytest.fixture(scope="module")
def paper() -> DSR:
    with initial_weights(0):
        model = build(load_recipe("paper").model, with_refinement=True)
    model.discrete.load_state_dict(load_general().state_dict())
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def transcribed(paper: DSR) -> Transcription:
    model = Transcription()
    model.load_state_dict(paper.state_dict())
    return model.eval()


def picture(count: int, side: int) -> torch.Tensor:
    # smooth, so that hardly a cell lies between two codes
    rough = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic").clamp(0, 1)


def test_the_transcription_finds_what_the_paper_architecture_finds(paper: DSR, transcribed: Transcription) -> None:
    with torch.inference_mode():
        ours, theirs = paper(picture(1, 64)), transcribed(picture(1, 64))
    assert torch.equal(ours.coarse_indices, theirs.coarse_indices)
    assert torch.equal(ours.fine_indices, theirs.fine_indices)
    for name in ("map", "detection_map", "score", "object_image", "general_image"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=1e-4)
    assert float(ours.map.std()) > 1e-3  # the maps compared are not flat


def test_the_transcription_replaces_codes_under_the_mask_alone(transcribed: Transcription) -> None:
    mask = torch.zeros(4, 64, 64, dtype=torch.bool)
    mask[:, 16:32, 16:32] = True
    step = TrainingStep(transcribed, torch.Generator().manual_seed(3))
    sample = step.defects(picture(4, 64), mask)
    coarse = (sample.coarse_codes != sample.clean_coarse).any(1)
    fine = (sample.fine_codes != sample.clean_fine).any(1)
    coarse_mask = mask[:, ::8, ::8]
    assert not coarse[~coarse_mask].any()
    for index in range(4):
        altered = coarse[index].any() or fine[index].any()
        assert altered
        assert sample.mask[index].bool().equal(mask[index])
        if not coarse[index].any():  # fine alone: nothing outside the mask moves
            assert not fine[index][~mask[index, ::4, ::4]].any()


def test_flawmap_and_the_transcription_learn_alike_from_the_same_defects() -> None:
    found = curves(2, 64, "cpu", batch=2)
    own, given = found["curves"]["flawmap, seed 0"], found["curves"]["transcription, defects given"]
    for name, value in own[0].items():
        assert given[0][name] == pytest.approx(value, rel=1e-4), name
    assert found["rounding"] < 1e-2  # after a step of Adam, which divides small gradients by their size
    assert found["seed"] > 10 * found["first_step"]  # other images are told apart


def test_efficientad_costs_what_its_authors_say() -> None:
    model = EfficientAD()
    assert gflop(model) == pytest.approx(76, abs=0.5)
    assert sum(parameter.numel() for parameter in model.parameters()) == pytest.approx(8.1e6, rel=0.01)


def test_gflop_counts_two_a_multiply_add() -> None:
    assert gflop(torch.nn.Conv2d(3, 8, 3, padding=1), 32, 16) == pytest.approx(2 * 3 * 8 * 9 * 32 * 16 / 1e9)
