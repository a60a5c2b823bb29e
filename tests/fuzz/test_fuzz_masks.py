"""Damaged masks: one clear line or a mask of the right shape; no checked pixel that is damaged counts as it stands."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from mutations import changed_bytes, held_to_bounds, mutations
from PIL import Image as Pillow

from flawmap.data.drawn import looks_like_mask
from flawmap.data.masks import MaskReader
from flawmap.errors import ImageError

SHAPE = (60, 80)
TRUTH = np.zeros(SHAPE, bool)
TRUTH[10:30, 20:50] = True
WHITE = TRUTH * np.uint8(255)
CHECKED = ("png", "png palette", "png alpha", "png 16")  # every byte of the pixels is under a checksum


def saved(image: Pillow.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def seeds() -> dict[str, bytes]:
    """A whole mask of each kind; each marks TRUTH, but for the rings of JPEG."""
    palette = Pillow.fromarray(TRUTH.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 200, 30, 30])
    layers = Pillow.fromarray(np.dstack([np.full((*SHAPE, 3), 200, np.uint8), WHITE]), "RGBA")
    soft = Pillow.fromarray(WHITE).resize((160, 120), Pillow.Resampling.BICUBIC).resize((80, 60))
    return {
        "png": saved(Pillow.fromarray(WHITE), "PNG"),
        "png 16": saved(Pillow.fromarray(WHITE.astype(np.uint16) * 257), "PNG"),
        "png palette": saved(palette, "PNG"),
        "png alpha": saved(layers, "PNG"),
        "png soft": saved(soft, "PNG"),
        "bmp": saved(Pillow.fromarray(WHITE), "BMP"),
        "tif": saved(Pillow.fromarray(WHITE), "TIFF"),
        "tif fax": saved(Pillow.fromarray(WHITE).convert("1"), "TIFF", compression="group4"),
        "tif palette": saved(palette, "TIFF"),
        "jpeg": saved(Pillow.fromarray(WHITE), "JPEG"),
    }


@pytest.mark.filterwarnings("ignore")  # of libraries, on what they meet in damaged headers
@pytest.mark.parametrize("kind", seeds())
def test_a_mutated_mask_is_one_line_or_a_mask_of_its_image(kind: str, tmp_path: Path) -> None:
    whole, file = seeds()[kind], tmp_path / f"x.{kind.split()[0]}"
    file.write_bytes(whole)
    assert (MaskReader().read(file, SHAPE) == TRUTH).mean() > 0.95
    for number in range(mutations("masks", len(seeds()))):
        name = f"mutation {number} of {kind}"
        file.write_bytes(changed_bytes(whole, random.Random(f"mask {kind} {number}")))
        with held_to_bounds(name):
            assert looks_like_mask(file) in (True, False, None), name
        with held_to_bounds(name):
            reader = MaskReader()
            try:
                mask = reader.read(file, SHAPE)
            except ImageError as problem:
                assert str(problem).startswith(f"{file}: "), name
                raise
            assert mask.shape == SHAPE and mask.dtype == np.bool_, name
            assert all("\n" not in line for line in reader.sentences()), name
            if kind in CHECKED and not reader.sentences():
                assert (mask == TRUTH).mean() > 0.98, f"{name} is taken as good"
