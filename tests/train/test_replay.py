"""Replay: the last batches are kept, and only they are drawn."""

from __future__ import annotations

import torch

from flawmap.train.replay import Replay


def batch(value: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch of two samples that can be told apart, with masks that go with them."""
    values = torch.tensor([value, value + 0.5])
    return values[:, None, None, None].expand(2, 3, 4, 4), (values % 1 > 0)[:, None, None].expand(2, 8, 8)


def test_only_the_last_batches_are_drawn_each_with_its_own_mask() -> None:
    replay = Replay(3, (2, 3, 4, 4), (2, 8, 8), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for step in range(7):
        replay.put(step, *batch(float(step)))
        seen = set()
        for _ in range(40):
            pictures, masks = replay.draw(step, generator)
            assert pictures.shape == (2, 3, 4, 4)
            assert pictures.dtype == torch.float32
            for picture, mask in zip(pictures, masks, strict=True):
                assert bool(mask.all()) == (float(picture[0, 0, 0]) % 1 > 0)
                assert bool(mask.any()) == bool(mask.all())
                seen.add(float(picture.mean()))
        expected = {kept + half for kept in range(max(0, step - 2), step + 1) for half in (0, 0.5)}
        assert seen == expected


def test_its_buffers_are_its_whole_state() -> None:
    first, second = (Replay(2, (2, 3, 4, 4), (2, 8, 8), torch.device("cpu")) for _ in range(2))
    first.put(0, *batch(1.0))
    first.put(1, *batch(2.0))
    for name, buffer in second.buffers.items():
        buffer.copy_(first.buffers[name])
    for found in zip(*(r.draw(1, torch.Generator().manual_seed(4)) for r in (first, second)), strict=True):
        assert torch.equal(*found)
