"""What a network finds in images or tiles, whoever computes it, and what of that counts.

Axes: B images or tiles, h, w the network's rows and columns.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from flawmap.data.images import Mask
from flawmap.model.dsr import DSR, ScoreRule, image_score

Array = np.ndarray[Any, np.dtype[np.float32]]


class Found(NamedTuple):
    """What the network says of B images, all float32.

    maps (B, h, w) and scores (B,) in [0, 1]; object_images, general_images (B, h, w, 3) BGR, clipped to [0, 1];
    detection_maps (B, h, w): the maps before refinement, which scores are taken from
    """

    maps: Array
    scores: Array
    object_images: Array
    general_images: Array
    detection_maps: Array

    def within(self, inside: Mask | None, rule: ScoreRule) -> Found:
        """The same when only the pixels `inside` (h, w) count: maps are 0 elsewhere. None changes nothing.

        `rule`: how a score is taken from a map.
        """
        if inside is None:
            return self
        first = self.detection_maps * inside
        scores = image_score(torch.from_numpy(first), rule).numpy()
        return self._replace(maps=self.maps * inside, scores=scores, detection_maps=first)


@torch.inference_mode()
def look(model: DSR, images: Tensor, device: torch.device) -> Found:
    """What `model` on `device` finds in images (B, 3, h, w) float32 in [0, 1], BGR."""
    result = model(images.to(device, memory_format=torch.channels_last))
    return Found(
        result.map.float().cpu().numpy(),
        result.score.float().cpu().numpy(),
        _drawings(result.object_image),
        _drawings(result.general_image),
        result.detection_map.float().cpu().numpy(),
    )


def _drawings(batch: Tensor) -> Array:
    """(B, 3, h, w) on any device -> (B, h, w, 3) numpy, clipped to [0, 1]."""
    return batch.float().clamp(0, 1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
