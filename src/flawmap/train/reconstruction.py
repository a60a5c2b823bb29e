"""After a training: how well the object-specific reconstruction shows good photos (measure/reconstruction.py)."""

from __future__ import annotations

import statistics

import torch

from flawmap.measure.reconstruction import detail_correlation
from flawmap.model.dsr import DSR
from flawmap.train.sources import GoodParts

PHOTOS = 16  # that are compared with their reconstructions, at most


@torch.no_grad()
def reconstruction_detail(model: DSR, good: GoodParts, device: torch.device) -> float:
    """Median correlation of the detail of good photos, or of a tile of each, with that of their reconstruction.

    In [-1, 1], of up to PHOTOS photos, evenly; 1 keeps all detail. Photos count at the size that detection sees.
    """
    found = []
    for index in range(0, len(good), -(-len(good) // PHOTOS)):
        picture, _ = next(good.pictures(index, 1))
        picture = picture.to(device, memory_format=torch.channels_last)
        drawn = model.examine(picture).object_image[0]
        pair = [image.permute(1, 2, 0).float().cpu().numpy() for image in (model.reduced(picture)[0], drawn)]
        found.append(detail_correlation(*pair))
    return round(statistics.median(found), 3)
