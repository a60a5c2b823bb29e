"""Whether photos are like the good ones a model was trained on: light, focus, position, exposure, and codes.

A verdict on a photo that is darker, blurred or moved says more of the camera than of the part. For each good photo
some simple figures are kept, and how often each code of the discrete model occurs in it. A new photo is odd where a
figure lies far outside theirs; many photos have drifted where their median does.

Axes: P good photos, S figures, K codes; H, W rows and columns of a picture the network sees, a, b of a small one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.data.images import Mask, resize_image
from flawmap.model.discrete import DiscreteModel

Floats = np.ndarray[Any, np.dtype[np.float64]]
Floats32 = np.ndarray[Any, np.dtype[np.float32]]
Picture = tuple[Tensor, Mask | None]  # (1, 3, H, W) in [0, 1], BGR, and what of it counts (H, W), None for all

TILES = 8  # of a photo that is cut into tiles, at most
SMALL = 64  # pixels along the longer side of the picture by which positions are compared
DARKEST, BRIGHTEST = 2 / 255, 253 / 255
ODD = 6.0  # deviations of the good photos from their median, beyond which one photo is odd
DRIFTED, MOVED = 3.0, 1.0  # the same of many photos' median: has drifted, is on its way
BY_CHANCE = 1e-3  # chance of a drift among good photos alone, over all figures
MANY = 5  # photos from which on a drift can be told


class Kind(NamedTuple):
    """A figure of a photo: what it is called, what more and less of it means, and its least deviation."""

    label: str
    more: str
    less: str
    least: float


KINDS = {
    "brightness": Kind("brightness", "brighter", "darker", 0.01),
    "contrast": Kind("contrast", "of more contrast", "of less contrast", 0.005),
    "sharpness": Kind("sharpness", "sharper or noisier", "less sharp", 0.005),
    "dark": Kind("share of black pixels", "underexposed", "less in the black", 0.002),
    "bright": Kind("share of white pixels", "overexposed", "less in the white", 0.002),
    "blue": Kind("blue less green", "bluer", "less blue", 0.005),
    "red": Kind("red less green", "redder", "less red", 0.005),
    "down": Kind("position down, share of height", "moved down", "moved up", 0.004),
    "across": Kind("position across, share of width", "moved to the right", "moved to the left", 0.004),
    "likeness": Kind("likeness to the mean good photo", "more alike", "unlike the mean good photo", 0.01),
    "coarse codes": Kind("distance of coarse codes", "of other large shapes", "of more usual large shapes", 0.005),
    "fine codes": Kind("distance of fine codes", "of another fine texture", "of more usual fine texture", 0.005),
}
PLACES = ("down", "across")
BRIGHTNESS = list(KINDS).index("brightness")  # its column among the figures
LOOSE, STRAY = 0.05, 0.05  # where more than this share of good photos lie farther off, in shares of the side, than
# that from their median, the position of one photo means nothing
HARMLESS = ("likeness", "coarse codes", "fine codes")  # figures of which only one direction is odd


class Raw(NamedTuple):
    """What is taken from one photo by itself: plain figures, the small grey picture, counts of codes."""

    plain: Floats
    small: Floats32
    coarse: Floats
    fine: Floats


@dataclass(frozen=True)
class GoodPhotos:
    """What is kept of good photos: figures (P, S), the mean small picture (a, b), how often codes occur (K,) each."""

    figures: Floats
    mean: Floats32
    coarse: Floats
    fine: Floats

    def __repr__(self) -> str:
        return f"<GoodPhotos: {self.figures.shape[1]} figures of {len(self.figures)} photos>"

    def centre_and_deviation(self) -> tuple[Floats, Floats]:
        """Median and deviation (S,), from the quartiles, of the good photos' figures."""
        low, centre, high = np.quantile(self.figures, (0.25, 0.5, 0.75), axis=0)
        least = np.array([kind.least for kind in KINDS.values()])
        return centre, np.maximum((high - low) / 1.349, least)

    def telling(self) -> list[int]:
        """Numbers of the figures by which one photo can be odd: positions only where good photos lie close together."""
        stray = (np.abs(self.figures - np.median(self.figures, axis=0)) > LOOSE).mean(axis=0)
        return [number for number, name in enumerate(KINDS) if name not in PLACES or stray[number] <= STRAY]

    def measure(self, raw: Raw) -> Floats:
        """All figures (S,) of a photo, set against the good ones."""
        return _figures(raw, self.mean, self.coarse, self.fine)

    def tensors(self) -> dict[str, Tensor]:
        """As stored."""
        return {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in vars(self).items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> GoodPhotos:
        """As read; KeyError or ValueError when they are not these."""
        figures, coarse, fine = (tensors[name].double().numpy() for name in ("figures", "coarse", "fine"))
        if figures.ndim != 2 or figures.shape[1] != len(KINDS) or len(figures) == 0:
            raise ValueError("figures of another kind")
        return cls(figures, tensors["mean"].numpy(), coarse, fine)


class Oddity(NamedTuple):
    """One figure of a photo, or the median of many, far from the good photos'.

    value: the figure; low, high: of the good photos; deviations: from their median, signed
    """

    name: str
    value: float
    low: float
    high: float
    deviations: float

    def __str__(self) -> str:
        kind = KINDS[self.name]
        words = kind.more if self.deviations > 0 else kind.less
        return f"{words} ({kind.label} {self.value:.3g}, good photos {self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Drift:
    """How far many photos are from the good ones: `figure`, in deviations of these, of `oddities[0]` if there is one.

    verdict: "alike", "on the way", "drifted", or "too few", where photos could not differ by more than chance
    """

    figure: float
    verdict: str
    oddities: list[Oddity]

    def sentence(self, count: int) -> str:
        """What to make of it, for `count` photos."""
        photos = f"the {count} photos" if count != 1 else "the photo"
        if self.verdict == "too few":
            return f"{photos} are too few, or the good ones known are, to tell a drift from chance"
        if self.verdict == "alike":
            return f"{photos} are like the good ones trained on"
        what = "; ".join(str(oddity) for oddity in self.oddities[:3])
        if self.verdict == "on the way":
            return f"{photos} begin to differ from the good ones trained on: {what}"
        return (
            f"{photos} are unlike the good ones trained on: {what}. Do not trust verdicts on them: put the camera "
            "right, or train on such photos"
        )


@torch.no_grad()
def take(pictures: Iterable[Picture], discrete: DiscreteModel, device: torch.device, reduction: int = 1) -> Raw:
    """What is taken of one photo: `pictures` is the photo as the network sees it, or some tiles of it.

    `reduction`: of a picture's sides, at which `discrete` sees it (`model.reduction`).
    """
    plain, coarse, fine = [], np.zeros(discrete.coarse_codebook.size), np.zeros(discrete.fine_codebook.size)
    first: Floats32 | None = None
    for picture, inside in pictures:
        pixels = np.ascontiguousarray(picture[0].permute(1, 2, 0).numpy())
        plain.append(_plain(pixels, inside))
        first = _counted(pixels, inside) if first is None else first
        seen = picture.to(device, memory_format=torch.channels_last)
        found = discrete.encode(nn.functional.avg_pool2d(seen, reduction) if reduction > 1 else seen)
        for counts, indices in ((coarse, found.coarse_indices), (fine, found.fine_indices)):
            counts += np.bincount(_counting(indices, inside), minlength=len(counts))
    assert first is not None, "a photo has pixels that count"
    ratio = SMALL / max(first.shape[:2])
    height, width = (max(8, round(side * ratio)) for side in first.shape[:2])
    small = resize_image(first, height, width, "area").mean(2)
    return Raw(np.mean(plain, axis=0), small.astype(np.float32), coarse, fine)


def learn(raws: Sequence[Raw]) -> GoodPhotos:
    """What is kept of good photos. Each is compared with the others: against a mean that it is part of itself, a
    texture without a fixed layout would lie exactly in its place, as no new photo of it does."""
    assert raws, "there are good photos"
    mean = np.mean([raw.small for raw in raws], axis=0).astype(np.float32)
    coarse, fine = np.sum([raw.coarse for raw in raws], axis=0), np.sum([raw.fine for raw in raws], axis=0)
    if len(raws) == 1:
        return GoodPhotos(np.array([_figures(raws[0], mean, coarse, fine)]), mean, coarse, fine)
    share = 1 / len(raws)
    figures = [
        _figures(raw, (mean - share * raw.small) / (1 - share), coarse - raw.coarse, fine - raw.fine) for raw in raws
    ]
    return GoodPhotos(np.array(figures), mean, coarse, fine)


def oddities(good: GoodPhotos, figures: Floats) -> list[Oddity]:
    """Figures (S,) of one photo that lie far outside those of the good ones, the farthest first."""
    return _beyond(good, figures, ODD, good.telling())


def drift(good: GoodPhotos, figures: Floats) -> Drift:
    """How far photos, figures (M, S) with M at least MANY, have drifted from the good ones.

    A figure counts where its distribution differs by more than chance (Kolmogorov & Smirnov).
    """
    from scipy.stats import ks_2samp

    assert len(figures) >= MANY, "a drift is told from several photos"
    apart = ks_2samp(np.zeros(len(good.figures)), np.ones(len(figures))).pvalue
    if apart >= BY_CHANCE / len(KINDS):
        return Drift(0.0, "too few", [])
    real = [
        number
        for number in range(len(KINDS))
        if ks_2samp(good.figures[:, number], figures[:, number]).pvalue < BY_CHANCE / len(KINDS)
    ]
    found = _beyond(good, np.median(figures, axis=0), MOVED, real, outside=False)
    figure = abs(found[0].deviations) if found else 0.0
    verdict = "alike" if not found else "on the way" if figure < DRIFTED else "drifted"
    return Drift(figure, verdict, found)


def _beyond(
    good: GoodPhotos, figures: Floats, limit: float, numbers: Iterable[int], outside: bool = True
) -> list[Oddity]:
    centre, deviation = good.centre_and_deviation()
    low, high = good.figures.min(axis=0), good.figures.max(axis=0)
    found = []
    for number in numbers:
        name = list(KINDS)[number]
        far = float((figures[number] - centre[number]) / deviation[number])
        harmless = name in HARMLESS and (far > 0) == (name == "likeness")
        if abs(far) <= limit or harmless or (outside and low[number] <= figures[number] <= high[number]):
            continue
        found.append(Oddity(name, float(figures[number]), float(low[number]), float(high[number]), far))
    return sorted(found, key=lambda oddity: -abs(oddity.deviations))


def _counted(pixels: Floats32, inside: Mask | None) -> Floats32:
    """A picture (H, W, 3) with the mean of what counts wherever it does not."""
    if inside is None:
        return pixels
    filled = pixels.copy()
    filled[~inside] = pixels[inside].mean(axis=0)
    return filled


def _plain(pixels: Floats32, inside: Mask | None) -> Floats:
    """Brightness, contrast, sharpness, black, white, blue, red of a picture (H, W, 3), where it counts."""
    grey = pixels.mean(2)
    # The Laplacian's deviation, over the contrast: blur lowers it, light alone does not.
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    counted = np.ones(grey.shape, np.bool_) if inside is None else inside
    values, colours = grey[counted].astype(np.float64), pixels[counted].astype(np.float64)
    whole = counted[1:-1, 1:-1] & counted[:-2, 1:-1] & counted[2:, 1:-1] & counted[1:-1, :-2] & counted[1:-1, 2:]
    inner = edges[whole]
    contrast = float(values.std())
    sharpness = float(inner.std()) / (contrast + 0.01) if inner.size else 0.0
    blue, green, red = colours.mean(0)
    dark, bright = float((values <= DARKEST).mean()), float((values >= BRIGHTEST).mean())
    return np.array([values.mean(), contrast, sharpness, dark, bright, blue - green, red - green])


def _figures(raw: Raw, mean: Floats32, coarse: Floats, fine: Floats) -> Floats:
    """All figures (S,) of a photo, against the mean picture and the codes of good ones."""
    placed = _position(raw.small, mean)
    return np.array([*raw.plain, *placed, _divergence(raw.coarse, coarse), _divergence(raw.fine, fine)])


def _position(small: Floats32, mean: Floats32) -> tuple[float, float, float]:
    """(shift down, across, in shares of the sides, likeness in [-1, 1]) of a picture against the mean one, (a, b) both.

    Normalised cross-correlation over all shifts up to a quarter of a side, by Fourier transforms; to a tenth of a pixel
    by a parabola through the peak.
    """
    height, width = mean.shape
    if small.shape != mean.shape:  # photos of another shape
        small = np.asarray(resize_image(np.repeat(small[:, :, None], 3, 2), height, width).mean(2), np.float32)
    first, second = (picture - picture.mean() for picture in (small.astype(np.float64), mean.astype(np.float64)))
    norm = math.sqrt(float((first**2).sum() * (second**2).sum()))
    if norm < 1e-9:  # a blank picture has no position
        return 0.0, 0.0, 0.0
    found = np.fft.irfft2(np.fft.rfft2(first) * np.conj(np.fft.rfft2(second)), s=mean.shape) / norm
    found = np.fft.fftshift(found)
    middle = (height // 2, width // 2)
    reach = (max(1, height // 4), max(1, width // 4))
    near = found[middle[0] - reach[0] : middle[0] + reach[0] + 1, middle[1] - reach[1] : middle[1] + reach[1] + 1]
    row, column = (int(place) for place in np.unravel_index(int(near.argmax()), near.shape))
    down = row - reach[0] + _vertex(near[:, column], row)
    across = column - reach[1] + _vertex(near[row], column)
    return down / height, across / width, float(near[row, column])


def _vertex(values: Floats, place: int) -> float:
    """Where, about `place`, the parabola through three values has its vertex: -0.5 to 0.5."""
    if place in (0, len(values) - 1):
        return 0.0
    before, here, after = values[place - 1 : place + 2]
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < 0 else 0.0


def _divergence(counts: Floats, others: Floats) -> float:
    """Root of the Jensen-Shannon divergence of two counts of codes (K,), in [0, 1] (Endres & Schindelin 2003)."""
    first, second = counts / max(counts.sum(), 1), others / max(others.sum(), 1)
    middle = (first + second) / 2

    def relative(part: Floats) -> float:
        used = part > 0
        return float((part[used] * np.log2(part[used] / middle[used])).sum())

    return math.sqrt(max(0.0, (relative(first) + relative(second)) / 2))


def _counting(indices: Tensor, inside: Mask | None) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Codes (1, h, w) of the cells that hold a pixel `inside` (H, W), as a list."""
    flat = indices[0].cpu().numpy()
    if inside is None:
        return flat.reshape(-1)
    down, across = inside.shape[0] // flat.shape[0], inside.shape[1] // flat.shape[1]
    whole = inside[: flat.shape[0] * down, : flat.shape[1] * across]
    cells = whole.reshape(flat.shape[0], down, flat.shape[1], across).any(axis=(1, 3))
    return np.asarray(flat[cells])
