"""What detection saw in earlier steps, kept to be seen again: making defects and drawings costs more than detection.

Repeating the batch at hand instead teaches the batch: on magnetic tiles it cost 0.03 of image AUROC (docs/speed.md).

Axes: B images of a step, C channels of what detection sees, H, W rows and columns of the image, h, w of what it sees.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Replay:
    """The last `batches` batches of pictures (B, C, h, w), in float16, with their masks and unsure pixels, both
    (B, H, W) bool.

    `buffers` are all its state but for the step; `packed` is what some steps left of it, for a file.
    """

    def __init__(self, batches: int, pictures: tuple[int, ...], masks: tuple[int, ...], device: torch.device) -> None:
        self.batches, self.count = batches, pictures[0]
        self.pictures = torch.zeros(batches * self.count, *pictures[1:], dtype=torch.float16, device=device)
        self.masks = torch.zeros(batches * self.count, *masks[1:], dtype=torch.bool, device=device)
        self.unsure = torch.zeros_like(self.masks)

    @property
    def buffers(self) -> dict[str, Tensor]:
        """Tensors that are changed in place."""
        return {"replay.pictures": self.pictures, "replay.masks": self.masks, "replay.unsure": self.unsure}

    def put(self, step: int, pictures: Tensor, masks: Tensor, unsure: Tensor) -> None:
        """Keep the batch of `step`, counted from 0, in place of the oldest."""
        first = step % self.batches * self.count
        self.pictures[first : first + self.count] = pictures
        self.masks[first : first + self.count] = masks
        self.unsure[first : first + self.count] = unsure

    def packed(self, first: int, last: int) -> dict[str, Tensor]:
        """What the steps from `first` to before `last` left, in their order: pictures, and masks of 8 pixels a byte."""
        places = self._places(first, last)
        masks = {name: buffer[places] for name, buffer in (("masks", self.masks), ("unsure", self.unsure))}
        packed = {name: torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=-1)) for name, mask in masks.items()}
        return {"pictures": self.pictures[places], **packed}

    def unpack(self, first: int, last: int, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `packed` gave, and so what came last. Raises KeyError or RuntimeError for another pool's."""
        for step in range(max(first, last - self.batches), last):
            start = (step - first) * self.count
            there, here = slice(start, start + self.count), self._places(step, step + 1)
            self.pictures[here] = tensors["pictures"][there].to(self.pictures.device)
            for name, buffer in (("masks", self.masks), ("unsure", self.unsure)):
                bits = np.unpackbits(tensors[name][there].numpy(), axis=-1, count=buffer.shape[-1])
                buffer[here] = torch.from_numpy(bits).bool().to(buffer.device)

    def _places(self, first: int, last: int) -> Tensor:
        """Where the samples of the steps from `first` to before `last` lie."""
        steps = torch.arange(first, last) % self.batches
        return (steps[:, None] * self.count + torch.arange(self.count)).flatten().to(self.pictures.device)

    def draw(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """B of the samples kept after `step`, at random: pictures (B, C, h, w) float32, masks and unsure (B, H, W)."""
        kept = min(step + 1, self.batches) * self.count
        chosen = torch.randint(kept, (self.count,), generator=generator).to(self.pictures.device)
        pictures = self.pictures[chosen].float().contiguous(memory_format=torch.channels_last)
        return pictures, self.masks[chosen], self.unsure[chosen]
