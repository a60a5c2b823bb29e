"""Training tiles: what is drawn, what is decoded, and what is left behind."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flawmap.config import ImageSettings
from flawmap.data.images import read_image, write_image
from flawmap.data.large import GoodTiles
from flawmap.data.scope import Scope
from flawmap.errors import ConfigError, ImageError

GB = 10**9


def numbered(path: Path, height: int, width: int) -> Path:
    """An image whose green and red say row and column."""
    rows, columns = np.mgrid[:height, :width]
    write_image(path, np.stack([rows * 0 + 7, rows % 256, columns % 256], axis=2).astype(np.uint8))
    return path


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [numbered(tmp_path / f"{n}.png", *size) for n, size in enumerate([(200, 240), (130, 250), (240, 64)])]


def tiles_of(paths: list[Path], tmp_path: Path, limit: int = GB, **settings: Any) -> GoodTiles:
    image = ImageSettings(policy="tile", height=64, width=96, **settings)
    return GoodTiles(paths, image, Scope(image), tmp_path, limit)


def draw(tiles: GoodTiles, seed: int = 0, count: int = 16, **options: Any) -> torch.Tensor:
    return tiles.draw(count, torch.Generator().manual_seed(seed), **{"rotate": 0.0, **options})


def test_tiles_are_parts_of_the_images_as_they_are_read(paths: list[Path], tmp_path: Path) -> None:
    drawn = draw(tiles_of(paths[:2], tmp_path), count=40)
    assert drawn.shape == (40, 3, 64, 96)
    wholes = [torch.from_numpy(read_image(path)).permute(2, 0, 1) for path in paths[:2]]
    for tile in drawn:
        top, left = round(float(tile[1, 0, 0]) * 255), round(float(tile[2, 0, 0]) * 255)
        assert any(torch.equal(tile, whole[:, top : top + 64, left : left + 96]) for whole in wholes)


def test_one_seed_draws_the_same_tiles_from_the_file_and_without_it(paths: list[Path], tmp_path: Path) -> None:
    kept, decoded = tiles_of(paths, tmp_path), tiles_of(paths, tmp_path, limit=0)
    options = {"rotate": 0.5, "border": "reflection", "crop": 48}
    assert torch.equal(draw(kept, 1, **options), draw(kept, 1, **options))
    assert torch.equal(draw(kept, 1, **options), draw(decoded, 1, **options))
    assert not torch.equal(draw(kept, 1, **options), draw(kept, 2, **options))


def test_each_image_is_decoded_once_and_the_file_stays_under_its_limit(paths: list[Path], tmp_path: Path) -> None:
    kept = tiles_of(paths, tmp_path)
    draw(kept)
    assert (kept.decoded, kept.left_out) == (3, 0)
    first = 200 * 240 * 3
    some = tiles_of(paths, tmp_path, limit=first + 100)
    assert [place.start is None for place in some.kept] == [False, True, True]
    assert os.fstat(some.file.descriptor).st_size <= first + 100
    drawn = torch.randint(3, (16,), generator=torch.Generator().manual_seed(0))
    draw(some)
    assert some.decoded == 3 + int((drawn > 0).sum()), "an image that does not fit is decoded for each of its tiles"


def test_no_image_stays_in_memory(tmp_path: Path) -> None:
    """Twelve images of 12 MB each: while tiles are drawn, what is allocated stays far below one of them."""
    import tracemalloc

    path = tmp_path / "large.png"
    write_image(path, np.full((2000, 2000, 3), 90, np.uint8))
    tracemalloc.start()
    try:
        tiles = tiles_of([path] * 12, tmp_path)
        _, reading = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for seed in range(5):
            draw(tiles, seed, count=8, rotate=1.0)
        now, drawing = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reading < 4 * 12e6, "one image at a time is read"
    assert drawing < 8e6
    assert now < 1e6


def test_the_file_has_no_name_and_its_place_is_given_back(paths: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    image = ImageSettings(policy="tile")
    tiles = GoodTiles(paths, image, Scope(image), folder, GB)
    descriptor = tiles.file.descriptor
    assert list(folder.iterdir()) == []
    os.fstat(descriptor)
    del tiles
    with pytest.raises(OSError):
        os.fstat(descriptor)


def test_a_full_disk_means_decoding_again(paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    tiles = tiles_of(paths, tmp_path)
    assert tiles.left_out == 3
    monkeypatch.undo()
    assert torch.equal(draw(tiles), draw(tiles_of(paths, tmp_path)))


@pytest.mark.parametrize("depth", ["grey", "16 bits", "float"])
def test_any_depth_is_drawn_as_it_is_read(depth: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    if depth == "float":
        from PIL import Image

        path = tmp_path / "part.tif"
        Image.fromarray(rng.random((100, 120), dtype=np.float32)).save(path)
    else:
        path = tmp_path / "part.png"
        shape = (100, 120) if depth == "grey" else (100, 120, 3)
        dtype = np.uint8 if depth == "grey" else np.uint16
        write_image(path, rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype))
    tiles = tiles_of([path], tmp_path)
    whole = torch.from_numpy(read_image(path)).permute(2, 0, 1)
    for tile in draw(tiles, count=5):
        places = (whole.unfold(1, 64, 1).unfold(2, 96, 1) == tile[:, None, None]).all(dim=(0, 3, 4))
        assert places.any()
    assert (tiles.kept[0].channels == 1) == (depth in ("grey", "float")), "grey takes one number a pixel"


def test_an_image_smaller_than_a_tile_is_filled_up_with_its_mirror(paths: list[Path], tmp_path: Path) -> None:
    for border in ("zeros", "reflection"):
        drawn = draw(tiles_of(paths[2:], tmp_path), border=border)  # 64 columns of 96
        assert torch.equal(drawn[..., 64:], drawn[..., 31:63].flip(-1))


def test_what_turns_into_a_rotated_tile_is_the_image_around_it(tmp_path: Path) -> None:
    write_image(tmp_path / "white.png", np.full((400, 400, 3), 255, np.uint8))
    tiles = tiles_of([tmp_path / "white.png"], tmp_path, include=[((0.4, 0.4), (0.6, 0.4), (0.6, 0.6), (0.4, 0.6))])
    inner = draw(tiles, rotate=1.0)
    # Tiles that hold a pixel of the middle fifth lie at least 64 pixels off the border: nothing black turns in.
    assert float(inner.min()) > 0.999
    edge = draw(tiles_of([tmp_path / "white.png"], tmp_path), count=64, rotate=1.0)
    assert float(edge.min()) == 0
    assert (
        float(draw(tiles_of([tmp_path / "white.png"], tmp_path), count=64, rotate=1.0, border="reflection").min())
        > 0.999
    )


def test_every_tile_drawn_holds_something_that_counts(paths: list[Path], tmp_path: Path) -> None:
    corner = ((0.0, 0.0), (0.05, 0.0), (0.05, 0.05), (0.0, 0.05))
    drawn = draw(tiles_of(paths[:1], tmp_path, include=[corner]), count=50)
    firsts = (drawn[:, 1:, 0, 0] * 255).round().long()  # (50, 2) first row and column
    assert (firsts <= torch.tensor([10, 12])).all(), "the polygon ends at row 10 and column 12"
    assert (firsts.amax(0) > 5).all()


def test_border_pixels_are_not_neglected(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.png", 200, 240)
    drawn = draw(tiles_of([path], tmp_path), count=3000)
    tops = (drawn[:, 1, 0, 0] * 255).round().long()
    first, middle = (int(((tops <= row) & (tops + 64 > row)).sum()) for row in (0, 100))
    assert first > 2 * 3000 / 137, "one tile in 137 would hold the first row if all places were equally likely"
    assert middle > 3000 * 64 / 200 * 0.9


def test_broken_and_unfitting_files_are_found_before_the_first_step(paths: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"broken\.png"):
        tiles_of([*paths, broken], tmp_path)
    image = ImageSettings(policy="tile")
    with pytest.raises(ImageError, match=r"1\.png.*ignore mask"):
        GoodTiles(paths, image, Scope(image, np.zeros((200, 240), np.bool_)), tmp_path, GB)
    speck = ((0.5, 0.5), (0.502, 0.5), (0.502, 0.502))
    with pytest.raises(ConfigError, match="no pixel"):
        tiles_of(paths, tmp_path, exclude=[((0, 0), (1, 0), (1, 1), (0, 1))], include=[speck])
