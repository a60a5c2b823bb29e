"""What of an image counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flawmap.config import ImageSettings, dump_recipe, load_recipe, recipe_from_text
from flawmap.data.images import write_image
from flawmap.data.scope import Scope, read_scope
from flawmap.errors import ConfigError, ImageError

LEFT = ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0))
TOP = ((0.0, 0.0), (1.0, 0.0), (1.0, 0.5), (0.0, 0.5))


def inside(height: int, width: int, **settings: Any) -> np.ndarray:
    mask = Scope(ImageSettings(**settings)).inside(height, width)
    assert mask is not None
    return mask


def test_without_polygons_and_mask_all_counts() -> None:
    scope = Scope(ImageSettings())
    assert scope.whole
    assert scope.inside(10, 20) is None


@pytest.mark.parametrize(("height", "width"), [(100, 100), (64, 256), (301, 999)])
def test_polygons_are_shares_of_the_image_whatever_its_size(height: int, width: int) -> None:
    mask = inside(height, width, include=[LEFT])
    columns = mask.all(axis=0)
    assert (columns == mask.any(axis=0)).all()
    assert np.array_equal(columns, np.arange(width) + 0.5 < width / 2)


def test_a_pixel_counts_when_its_centre_lies_inside() -> None:
    """Against the sign of cross products, for a triangle, and a concave polygon whose notch stays out."""
    corners = ((0.101, 0.203), (0.951, 0.402), (0.303, 0.907))
    rows, columns = np.mgrid[:80, :120]
    x, y = (columns + 0.5) / 120, (rows + 0.5) / 80
    expected = np.all(
        [
            (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) > 0
            for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True)
        ],
        axis=0,
    )
    assert np.array_equal(inside(80, 120, include=[corners]), expected)
    assert np.array_equal(inside(80, 120, include=[corners[::-1]]), expected)
    notch = inside(100, 100, include=[((0, 0), (1, 0), (1, 1), (0.5, 0.5), (0, 1))])
    assert not notch[90, 50] and notch[90, 5] and notch[40, 50] and notch[0, 0]


def test_includes_add_up_where_they_overlap_and_excludes_are_taken_away() -> None:
    both = inside(100, 100, include=[LEFT, TOP])
    assert both[20, 20], "what two polygons cover counts"
    assert both[20, 80] and both[80, 20] and not both[80, 80]
    rest = inside(100, 100, exclude=[LEFT])
    assert rest[50, 80] and not rest[50, 20]
    assert not inside(100, 100, include=[TOP], exclude=[LEFT])[20, 20]


def test_white_of_the_ignore_mask_does_not_count(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10:20, 30:40] = 255
    write_image(tmp_path / "mask.png", pixels)
    scope = read_scope(ImageSettings(ignore=str(tmp_path / "mask.png")))
    assert np.array_equal(scope.inside(40, 60), pixels == 0)
    half = scope.inside(20, 30)
    assert half is not None and not half[5:10, 15:20].any() and int((~half).sum()) == 25
    scope.check((40, 60, 3), "part.png")
    with pytest.raises(ImageError, match=r"part\.png: the image is 61x40 pixels but the ignore mask 60x40"):
        scope.check((40, 61, 3), "part.png")


def test_a_scope_without_a_pixel_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "white.png", np.full((40, 60), 255, np.uint8))
    with pytest.raises(ConfigError, match="leave no pixel"):
        read_scope(ImageSettings(ignore=str(tmp_path / "white.png")))
    with pytest.raises(ConfigError, match="leave no pixel"):
        inside(50, 50, include=[LEFT], exclude=[((0, 0), (0.6, 0), (0.6, 1), (0, 1))])


def test_a_missing_ignore_mask_is_named_in_one_line(tmp_path: Path) -> None:
    for name in (tmp_path / "none.png", tmp_path):
        with pytest.raises(ImageError) as caught:
            read_scope(ImageSettings(ignore=str(name)))
        assert str(name) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("polygon", "said"),
    [
        ("[[0.1, 0.1], [0.9, 0.1], [640, 480]]", "less than or equal to 1"),
        ("[[0.1, 0.1], [0.9, -0.1], [0.5, 0.5]]", "greater than or equal to 0"),
        ("[[0.1, 0.1], [0.9, 0.1]]", "three corners"),
        ("[[0.1, 0.1], [0.5, 0.5], [0.9, 0.9]]", "three corners"),
        ("[]", "three corners"),
        ("[[0.1, 0.1, 0.1], [0.5, 0.5], [0.9, 0.1]]", "include"),
    ],
)
def test_a_wrong_polygon_gives_one_line(polygon: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_recipe(None, [f"image.include=[{polygon}]"])
    assert "\n" not in str(caught.value)


def test_polygons_survive_the_recipe_of_a_bundle() -> None:
    recipe = load_recipe(None, ["image.include=[[[0, 0], [1, 0], [0.25, 1]]]", "image.policy=tile"])
    assert recipe_from_text(dump_recipe(recipe)) == recipe
