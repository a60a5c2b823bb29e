"""Several pictures with captions as one, and a plot of a score among those of good parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flawmap.data.images import Pixels
from flawmap.measure.report import short

COLUMNS = 4
SIDE = 256  # pixels, about, of the longer side of a picture in the composition
GAP, MARGIN = 14, 24
INK, SOFT, LINE = (23, 33, 43), (82, 97, 111), (204, 213, 220)
GOOD, BAD = (11, 92, 156), (168, 67, 0)  # told apart without red/green vision
PLOT = (1066, 150)


@dataclass(frozen=True)
class Panel:
    """A caption and its picture (h, w, 3) uint8 BGR."""

    caption: str
    pixels: Pixels

    def __repr__(self) -> str:
        return f"<Panel {self.caption}: {self.pixels.shape[1]}x{self.pixels.shape[0]} pixels>"


def compose(title: str, lines: Sequence[str], panels: Sequence[Panel], plot: Pixels) -> Pixels:
    """A title, lines of text, `panels` side by side in rows, and a plot below: (H, W, 3) uint8 BGR."""
    pictures = [_fitted(panel.pixels) for panel in panels]
    caption = ImageFont.load_default(14)
    widths = [each.width for each in pictures] + [int(caption.getlength(_plain(panel.caption))) + 1 for panel in panels]
    width, height = max(widths), max(each.height for each in pictures)
    rows = -(-len(panels) // COLUMNS)
    top = MARGIN + 36 + 22 * len(lines) + GAP
    whole_width = 2 * MARGIN + max(COLUMNS * width + (COLUMNS - 1) * GAP, plot.shape[1])
    whole = Image.new("RGB", (whole_width, top + rows * (height + 22 + GAP) + plot.shape[0] + MARGIN), "white")
    draw = ImageDraw.Draw(whole)
    draw.text((MARGIN, MARGIN), _plain(title), fill=INK, font=ImageFont.load_default(24))
    for number, line in enumerate(lines):
        draw.text((MARGIN, MARGIN + 36 + 22 * number), _plain(line), fill=SOFT, font=ImageFont.load_default(16))
    for number, (panel, picture) in enumerate(zip(panels, pictures, strict=True)):
        left = MARGIN + number % COLUMNS * (width + GAP)
        upper = top + number // COLUMNS * (height + 22 + GAP)
        whole.paste(picture, (left, upper + 22))
        draw.text((left, upper), _plain(panel.caption), fill=INK, font=caption)
    whole.paste(Image.fromarray(plot[:, :, ::-1]), (MARGIN, top + rows * (height + 22 + GAP)))
    return np.asarray(whole)[:, :, ::-1].copy()


def score_plot(good_scores: Sequence[float], score: float, threshold: float | None) -> Pixels:
    """The scores of good parts as ticks, this part's as a marker, the threshold as a line: (H, W, 3) uint8 BGR."""
    width, height = PLOT
    values = [*good_scores, score, *([threshold] if threshold is not None else [])]
    low, high = min(values), max(values)
    span = max(high - low, 1e-6)
    low, span = low - 0.05 * span, 1.1 * span
    plot = Image.new("RGB", PLOT, "white")
    draw = ImageDraw.Draw(plot)
    font = ImageFont.load_default(14)

    def place(value: float) -> float:
        return 10 + (value - low) / span * (width - 20)

    base = height - 40
    draw.line([(10, base), (width - 10, base)], fill=SOFT)
    for value in good_scores:
        draw.line([(place(value), base - 34), (place(value), base - 1)], fill=GOOD, width=2)
    if threshold is not None:
        x = place(threshold)
        for y in range(26, base, 10):
            draw.line([(x, y), (x, min(y + 6, base))], fill=INK, width=2)
        _centred(draw, x, 6, f"threshold {short(threshold)}", INK, font, width)
    x, colour = place(score), BAD if threshold is not None and score > threshold else GOOD
    draw.polygon([(x, base + 1), (x - 8, base + 15), (x + 8, base + 15)], fill=colour)
    _centred(draw, x, base + 18, f"this part {short(score)}", colour, font, width)
    if good_scores:
        draw.text((10, base - 56), f"{len(good_scores)} good parts", fill=GOOD, font=font)
    return np.asarray(plot)[:, :, ::-1].copy()


def _centred(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int,
) -> None:  # fmt: skip
    length = draw.textlength(text, font=font)
    draw.text((min(max(x - length / 2, 4), width - length - 4), y), text, fill=colour, font=font)


def _fitted(pixels: Pixels) -> Image.Image:
    """A picture in RGB, its longer side brought to about SIDE pixels by a whole number where it is small."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1]))
    longest = max(picture.size)
    if longest <= SIDE:
        times = max(1, SIDE // longest)
        return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    ratio = SIDE / longest
    return picture.resize(
        (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio))), Image.Resampling.BOX
    )


def _plain(text: str) -> str:
    """Text that the built-in font can draw: what it lacks is spelled out."""
    return text.encode("latin-1", "backslashreplace").decode("latin-1")
