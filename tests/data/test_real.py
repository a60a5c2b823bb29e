from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flawmap.config import ImageSettings, RealSettings
from flawmap.data.defects import read_defects
from flawmap.data.images import write_image
from flawmap.data.layouts import Sample
from flawmap.data.real import RealDefects, cut_out, paste
from flawmap.data.scope import Scope
from flawmap.errors import DataError, LayoutError

SETTINGS = ImageSettings(height=64, width=64)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def photo(folder: Path, name: str, *, mask: bool = True, side: int = 64, level: float = 0.5) -> Sample:
    """A grey slope with a dark spot of 9 by 5 pixels."""
    image = np.full((side, side, 3), level) + np.linspace(-0.1, 0.1, side)[:, None, None]
    marks = np.zeros((side, side), np.uint8)
    marks[20:29, 30:35] = 255
    image[marks > 0] -= 0.3
    write_image(folder / f"{name}.png", np.rint(255 * image).astype(np.uint8))
    if mask:
        write_image(folder / f"{name}_mask.png", marks)
    return Sample(folder / f"{name}.png", "train", True, "spot", folder / f"{name}_mask.png" if mask else None)


def test_a_defect_is_cut_out_as_its_difference_from_its_surroundings(tmp_path: Path) -> None:
    real = RealDefects([photo(tmp_path, "a")], SETTINGS, Scope(SETTINGS))
    (patch,) = real.patches
    inside = patch.difference[:, patch.mask]
    assert int(patch.mask.sum()) == 45
    assert float(inside.mean()) == pytest.approx(-0.3, abs=0.02)
    outside = patch.difference[:, patch.opacity < 0.01]
    assert float(outside.abs().mean()) < 0.02  # the slope is no part of the defect
    assert float(patch.opacity[patch.mask].min()) > 0.8


def test_a_pasted_defect_darkens_another_photo_by_as_much(tmp_path: Path) -> None:
    (patch,) = RealDefects([photo(tmp_path, "a")], SETTINGS, Scope(SETTINGS)).patches
    surface = torch.full((3, 64, 64), 0.7)
    generator = seeded(1)
    depths, places = [], []
    for _ in range(60):
        image, mask = paste(surface, patch, generator)
        assert mask.any()
        assert float((image - surface)[:, ~mask].abs().mean()) < 0.01
        depths.append(float((surface - image)[:, mask].mean()))
        places.append(mask.nonzero().float().mean(0))
    assert min(depths) > 0.7 * 0.27
    assert max(depths) < 1.3 * 0.33
    assert torch.stack(places).std(0).min() > 10  # anywhere
    assert torch.equal(surface, torch.full((3, 64, 64), 0.7))


def test_a_defect_that_reaches_over_the_border_is_cut_off_there(tmp_path: Path) -> None:
    (patch,) = RealDefects([photo(tmp_path, "a")], SETTINGS, Scope(SETTINGS)).patches
    generator = seeded(2)
    sizes = {int(paste(torch.full((3, 32, 32), 0.5), patch, generator)[1].sum()) for _ in range(80)}
    assert 45 in sizes
    assert min(sizes) < 45


def test_a_batch_holds_photos_as_they_are_and_pasted_ones(tmp_path: Path) -> None:
    samples = [photo(tmp_path, "a"), photo(tmp_path, "b", mask=False)]
    real = RealDefects(samples, SETTINGS, Scope(SETTINGS))
    asked: list[int] = []

    def good(count: int) -> torch.Tensor:
        asked.append(count)
        return torch.full((count, 3, 64, 64), 0.9)

    drawn = real.draw(RealSettings(batch=40, pasted=0.5), good, seeded(3), crop=0)
    assert drawn.images.shape == (40, 3, 64, 64)
    assert 8 <= asked[0] <= 32
    bright = drawn.images.mean((1, 2, 3)) > 0.75
    assert int(bright.sum()) == asked[0]
    assert drawn.masked[bright].all()
    alone = drawn.masked[~bright]
    assert alone.any()
    assert not alone.all()
    assert not drawn.masks[~drawn.masked].any()
    assert drawn.masks[drawn.masked].flatten(1).any(1).all()
    none = RealDefects(samples[1:], SETTINGS, Scope(SETTINGS)).draw(
        RealSettings(batch=3, pasted=1.0), good, seeded(), crop=0
    )
    assert not none.masked.any()  # without a mask there is nothing to paste


def test_the_mask_moves_with_the_photo(tmp_path: Path) -> None:
    real = RealDefects([photo(tmp_path, "a")], SETTINGS, Scope(SETTINGS))
    drawn = real.draw(RealSettings(batch=12, pasted=0.0), lambda count: torch.zeros(0), seeded(5), crop=48)
    assert drawn.images.shape == (12, 3, 48, 48)
    for image, mask in zip(drawn.images, drawn.masks, strict=True):
        grey = image.mean(0)
        assert float(grey[mask].mean()) < float(grey[~mask].mean()) - 0.15
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in drawn.masks}) > 4


def test_the_same_generator_gives_the_same_batch(tmp_path: Path) -> None:
    real = RealDefects([photo(tmp_path, "a"), photo(tmp_path, "b", level=0.6)], SETTINGS, Scope(SETTINGS))

    def good(count: int) -> torch.Tensor:
        return torch.full((count, 3, 32, 32), 0.9)

    one, two, other = (real.draw(RealSettings(batch=6), good, seeded(number), crop=32) for number in (7, 7, 8))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)


def test_of_a_tiled_photo_the_tile_around_the_defect_is_taken(tmp_path: Path) -> None:
    tiled = ImageSettings(height=32, width=32, policy="tile")
    real = RealDefects([photo(tmp_path, "a", side=200)], tiled, Scope(tiled))
    assert real.images[0].shape == (32, 32, 3)
    assert int(real.masks[0].sum()) == 45  # type: ignore[union-attr]
    with pytest.raises(DataError, match="has no mask"):
        RealDefects([photo(tmp_path, "b", mask=False)], tiled, Scope(tiled))


def test_a_thin_defect_survives_the_way_to_the_network_s_size(tmp_path: Path) -> None:
    marks = np.zeros((256, 256), np.uint8)
    marks[100:101, 20:220] = 255
    write_image(tmp_path / "a.png", np.full((256, 256, 3), 90, np.uint8))
    write_image(tmp_path / "a_mask.png", marks)
    real = RealDefects(
        [Sample(tmp_path / "a.png", "train", True, "x", tmp_path / "a_mask.png")], SETTINGS, Scope(SETTINGS)
    )
    assert int(real.masks[0].sum()) >= 49  # type: ignore[union-attr]


def test_a_mask_that_marks_nothing_is_refused(tmp_path: Path) -> None:
    sample = photo(tmp_path, "a")
    write_image(tmp_path / "a_mask.png", np.zeros((64, 64), np.uint8))
    with pytest.raises(DataError, match="marks no pixel"):
        RealDefects([sample], SETTINGS, Scope(SETTINGS))
    with pytest.raises(DataError, match="no defective photos"):
        RealDefects([], SETTINGS, Scope(SETTINGS))


def test_a_large_defect_is_its_difference_too() -> None:
    """Deep inside it, hardly any surroundings are near."""
    image = np.full((320, 320, 3), 0.5, np.float32)
    mask = np.zeros((320, 320), bool)
    mask[30:290, 40:280] = True
    flat = cut_out(image, mask)
    assert flat is not None
    assert float(flat.difference.abs().max()) < 1e-3
    image[mask] = 0.2
    patch = cut_out(image, mask)
    assert patch is not None
    assert float((patch.difference[:, patch.mask] + 0.3).abs().max()) < 1e-3


def test_a_mask_without_surroundings_is_not_pasted(tmp_path: Path) -> None:
    sample = photo(tmp_path, "a")
    write_image(tmp_path / "a_mask.png", np.full((64, 64), 255, np.uint8))
    real = RealDefects([sample], SETTINGS, Scope(SETTINGS))
    assert real.patches == []
    drawn = real.draw(RealSettings(batch=3, pasted=1.0), lambda count: torch.zeros(0), seeded(), crop=0)
    assert drawn.masked.all()


def test_the_tile_of_defects_that_lie_apart_holds_one(tmp_path: Path) -> None:
    sample = photo(tmp_path, "a", side=400)
    marks = np.zeros((400, 400), np.uint8)
    marks[10:20, 10:20] = marks[380:390, 380:390] = 255
    write_image(tmp_path / "a_mask.png", marks)
    tiled = ImageSettings(height=64, width=64, policy="tile")
    real = RealDefects([sample], tiled, Scope(tiled))
    assert int(real.masks[0].sum()) == 100  # type: ignore[union-attr]


def test_what_does_not_count_is_said_of_each_photo(tmp_path: Path) -> None:
    half = ImageSettings(height=64, width=64, exclude=(((0.0, 0.0), (0.4, 0.0), (0.4, 1.0), (0.0, 1.0)),))
    real = RealDefects([photo(tmp_path, "a", mask=False)], half, Scope(half))
    drawn = real.draw(RealSettings(batch=4, pasted=0.0), lambda count: torch.zeros(0), seeded(), crop=0)
    shares = drawn.counts.float().mean((1, 2))
    assert shares.tolist() == pytest.approx([0.6] * 4, abs=0.05)


def test_defective_photos_are_found_with_their_masks(tmp_path: Path) -> None:
    photo(tmp_path, "a")
    photo(tmp_path, "b", mask=False)
    (tmp_path / "scratch").mkdir()
    photo(tmp_path / "scratch", "c", mask=False)
    (tmp_path / "masks" / "scratch").mkdir(parents=True)
    write_image(tmp_path / "masks" / "scratch" / "c.png", np.full((64, 64), 255, np.uint8))
    found = {sample.image.stem: sample for sample in read_defects(tmp_path).samples}
    assert set(found) == {"a", "b", "c"}
    assert found["a"].mask == tmp_path / "a_mask.png"
    assert found["b"].mask is None
    assert found["c"].mask == tmp_path / "masks" / "scratch" / "c.png"
    assert found["c"].kind == "scratch"


def test_of_a_data_set_the_defective_images_are_taken(tmp_path: Path) -> None:
    from flawmap.data.surfaces import write_sample_parts

    write_sample_parts(tmp_path / "parts", "brushed-metal", 64, 4, 2, 3, 0)
    found = read_defects(tmp_path / "parts")
    assert len(found.samples) == 3
    assert all(sample.mask for sample in found.samples)
    with pytest.raises(LayoutError, match="no such folder"):
        read_defects(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LayoutError, match="no images"):
        read_defects(tmp_path / "empty")


def test_good_photos_are_never_taken_for_defects(tmp_path: Path) -> None:
    from flawmap.data.surfaces import write_sample_parts

    write_sample_parts(tmp_path / "good_only" / "parts", "brushed-metal", 64, 4, 2, 0, 0)
    with pytest.raises(LayoutError, match="holds no defective images"):
        read_defects(tmp_path / "good_only" / "parts")
    write_sample_parts(tmp_path / "two" / "a", "brushed-metal", 64, 4, 2, 2, 0)
    write_sample_parts(tmp_path / "two" / "b", "brushed-metal", 64, 4, 2, 2, 0)
    with pytest.raises(LayoutError, match="several categories"):
        read_defects(tmp_path / "two")
    (tmp_path / "table").mkdir()
    photo(tmp_path / "table", "a")
    (tmp_path / "table" / "split.csv").write_text("image,split,label,mask\nwrong.png,train,scratch,\n")
    with pytest.raises(LayoutError, match=r"wrong\.png"):
        read_defects(tmp_path / "table")
    (tmp_path / "deep" / "x" / "scratch" / "ok").mkdir(parents=True)
    photo(tmp_path / "deep" / "x" / "scratch" / "ok", "a", mask=False)
    with pytest.raises(LayoutError, match="lies in a folder of good images"):
        read_defects(tmp_path / "deep")
    (tmp_path / "mixed" / "scratch" / "ok").mkdir(parents=True)
    photo(tmp_path / "mixed" / "scratch" / "ok", "a", mask=False)
    with pytest.raises(LayoutError, match="several categories"):
        read_defects(tmp_path / "mixed")


def test_names_are_compared_without_regard_to_case(tmp_path: Path) -> None:
    photo(tmp_path, "a")
    (tmp_path / "a.png").rename(tmp_path / "a.PNG")
    (tmp_path / "a_mask.png").rename(tmp_path / "a_MASK.PNG")
    photo(tmp_path, "b", mask=False)
    (tmp_path / "Masks").mkdir()
    write_image(tmp_path / "Masks" / "b.png", np.full((64, 64), 255, np.uint8))
    found = {sample.image.name: sample.mask for sample in read_defects(tmp_path).samples}
    assert found == {"a.PNG": tmp_path / "a_MASK.PNG", "b.png": tmp_path / "Masks" / "b.png"}
