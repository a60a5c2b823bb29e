"""Sample parts drawn from noise: five materials, their defects, and exact masks, for the demo and the tests.

Source: none; ordinary procedural texturing (filtered noise, cellular noise after Worley 1996, a woven height field).
A part is drawn as its reflectance, then photographed: one lamp from the upper left, a lens that blurs a little, a
sensor with noise. The camera's scale is fixed, so a larger picture shows more of the material, not a coarser one.
No two good parts are alike: texture, position, turn, light and exposure differ.

A defective part is the good part of the same random numbers plus a change. The mask is where that change is visible
in any channel; everywhere else the two parts are equal, bit for bit.

Axes: H rows, W columns, H = W = size; colours BGR; angles in radians from the x axis, y pointing down.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flawmap.data.images import to_uint8, write_image
from flawmap.errors import ConfigError, DataError

Image = np.ndarray[Any, np.dtype[np.float32]]
Floats = np.ndarray[Any, np.dtype[np.floating[Any]]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]
Random = np.random.Generator

VISIBLE = 2 / 255  # a smaller change of a pixel is not counted, nor made
CONTRASTS = (0.025, 0.35)  # grey levels of [0, 1] that no scaled defect goes below or beyond
SMALLEST = 32  # pixels a side
README = "readme.txt"
_MARK = "Sample parts drawn by flawmap"
_OWN = re.compile(r"(train|test|ground_truth)/[a-z-]+/\.?\d{3,}(_mask)?\.png(\.\d+)?")  # half-written ones too


class Scene(NamedTuple):
    """A piece of material before it is photographed."""

    reflectance: Image  # (H, W, 3)
    grain: float | None = None  # the direction the texture runs in
    splits: bool = False  # whether it cracks along the grain
    threads: tuple[tuple[Numbers, Image], ...] = ()  # fabric: number of the thread (H, W), look without it (H, W, 3)


class Light(NamedTuple):
    """How a part is lit and exposed."""

    field: Image  # (H, W, 3), factor on the reflectance
    direction: float  # towards the lamp


class Defect(NamedTuple):
    """How a defect changes the reflectance: (H, W, 3) to be added, and how strongly."""

    change: Callable[[Scene, Light, Random], Image]
    contrast: tuple[float, float] | None  # in standard deviations of the good part's grey values; None: as drawn


# --- noise and strokes ---------------------------------------------------------------------------------------------


def _noise(rng: Random, size: int, along: float, across: float, angle: float = 0.0) -> Image:
    """White noise (H, W) blurred by `along` and `across` pixels (standard deviations); mean 0, variance 1."""
    down, right = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]
    first, second = np.cos(angle) * right + np.sin(angle) * down, np.cos(angle) * down - np.sin(angle) * right
    spectrum = np.exp(-2 * np.pi**2 * ((along * first) ** 2 + (across * second) ** 2)).astype(np.float32)
    spectrum[0, 0] = 0
    white = rng.standard_normal((size, size), dtype=np.float32)
    field = np.fft.irfft2(np.fft.rfft2(white) * spectrum, s=(size, size))
    return (field / max(float(field.std()), 1e-9)).astype(np.float32)


def _axes(size: int) -> tuple[Image, Image]:
    """Pixel coordinates (1, W) and (H, 1) from the centre."""
    line = np.arange(size, dtype=np.float32) - (size - 1) / 2
    return line[None], line[:, None]


def _turned(size: int, angle: float, rng: Random) -> tuple[Image, Image]:
    """Coordinates (H, W) along and across `angle`, from a random origin."""
    x, y = _axes(size)
    shift = rng.uniform(0, 1000, 2)
    u = np.cos(angle) * x + np.sin(angle) * y + shift[0]
    v = np.cos(angle) * y - np.sin(angle) * x + shift[1]
    return u.astype(np.float32), v.astype(np.float32)


def _stroke(size: int, x: Floats, y: Floats, width: Floats, strength: Floats) -> Image:
    """How much of each pixel (H, W) a line through the points x, y (N,), from the top left, covers: in [0, 1]."""
    reach = int(np.ceil(width.max() / 2 + 1))
    offsets = np.arange(-reach, reach + 1)
    columns, rows = np.broadcast_arrays(
        np.round(x).astype(int)[:, None, None] + offsets, np.round(y).astype(int)[:, None, None] + offsets[:, None]
    )
    distance = np.hypot(columns - x[:, None, None], rows - y[:, None, None])
    cover = np.clip((width[:, None, None] + 1) / 2 - distance, 0, 1) * strength[:, None, None]
    inside = (columns >= 0) & (columns < size) & (rows >= 0) & (rows < size) & (cover > 0)
    canvas = np.zeros((size, size), np.float32)
    np.maximum.at(canvas, (rows[inside], columns[inside]), cover[inside].astype(np.float32))
    return canvas


def _blob(rng: Random, size: int, radius: float, rough: float) -> tuple[Image, Image, Image]:
    """Offsets x, y (H, W) from a random centre, and the depth (H, W) in pixels inside an uneven outline."""
    x, y = _axes(size)
    centre = rng.uniform(-0.3, 0.3, 2) * size
    x, y = np.broadcast_arrays(x - np.float32(centre[0]), y - np.float32(centre[1]))
    angle = np.arctan2(y, x)
    outline = np.ones((size, size), np.float32)
    for lobes in range(1, 9):
        height, turn = rough * rng.normal() / lobes**1.6, rng.uniform(0, 2 * np.pi)
        outline += np.float32(height) * np.cos(lobes * angle + np.float32(turn))
    return x, y, np.float32(radius) * np.maximum(outline, np.float32(0.4)) - np.hypot(x, y)


def _step(value: Floats) -> Image:
    """Smooth step from 0 at -½ to 1 at ½."""
    t = np.clip(np.asarray(value, np.float32) + np.float32(0.5), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


# --- materials -----------------------------------------------------------------------------------------------------


def _paint(low: tuple[float, ...], high: tuple[float, ...], share: Image) -> Image:
    """Colours (H, W, 3) between two, by `share` (H, W)."""
    first, second = np.asarray(low, np.float32), np.asarray(high, np.float32)
    return first + (second - first) * share[..., None]


def _brushed_metal(size: int, rng: Random) -> Scene:
    angle = rng.uniform(-0.07, 0.07)
    u, _ = _turned(size, angle, rng)
    long, short = _noise(rng, size, 45, 0.45, angle), _noise(rng, size, 9, 0.4, angle)
    scores = np.maximum(_noise(rng, size, 16, 0.35, angle) - 1.6, 0)  # single deeper strokes of the brush
    gleam = (u - u.mean()) / size - rng.uniform(-0.35, 0.35)
    share = 0.48 + 0.075 * long + 0.055 * short - 0.07 * scores + 0.16 * np.exp(-0.5 * (gleam / 0.35) ** 2)
    return Scene(_paint((0.27, 0.26, 0.25), (0.82, 0.81, 0.79), share), angle)


def _fabric(size: int, rng: Random) -> Scene:
    angle, period = rng.uniform(-0.05, 0.05), 6.4 * rng.uniform(0.98, 1.02)
    u, v = _turned(size, angle, rng)
    u = np.asarray((u + 0.45 * _noise(rng, size, 20, 9)) / period, np.float32)  # threads wander a little
    v = np.asarray((v + 0.45 * _noise(rng, size, 9, 20)) / period, np.float32)
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    across, along = u - i - 0.5, v - j - 0.5  # position in the crossing, in [-½, ½], as the upright threads see it
    above = (i + j) % 2 == 0  # where an upright thread lies on top
    yarn = rng.normal(1, 0.06, (2, 1024)).astype(np.float32)
    sag = np.float32(0.62)

    def threads(side: Image, way: Image, top: Mask, shade: Image, colour: tuple[float, ...], fibre: Image) -> Image:
        round_ = np.sqrt(np.maximum(1 - (side / 0.5) ** 2, 0))
        height = np.where(top, sag + (1 - sag) * np.cos(np.pi * way), sag * (1 - 0.45 * np.cos(np.pi * way)))
        value = (0.25 + 0.75 * round_) * height * shade * (1 + 0.07 * fibre)
        return np.asarray(np.array(colour) * value[..., None], np.float32)

    upright = threads(across, along, above, yarn[0][i % 1024], (0.62, 0.50, 0.42), _noise(rng, size, 0.5, 2.5, angle))
    level = threads(along, across, ~above, yarn[1][j % 1024], (0.74, 0.76, 0.76), _noise(rng, size, 2.5, 0.5, angle))
    cloth = np.where(above[..., None], upright, level)
    return Scene(cloth, threads=((i, 0.8 * level), (j, 0.8 * upright)))  # behind a missing one lies the dimmer other


def _cast_grain(size: int, rng: Random) -> Scene:
    height = _noise(rng, size, 0.8, 0.8) + 1.3 * _noise(rng, size, 1.9, 1.9)
    slope = (height - np.roll(height, (1, 1), (0, 1))) * 0.6  # lit from the upper left, as all parts are
    pits, cloud = np.maximum(_noise(rng, size, 1.1, 1.1) - 1.9, 0), _noise(rng, size, 16, 16)
    glints = np.maximum(-slope - 1.0, 0)  # facets of the grain that throw the lamp back
    share = 0.48 - 0.13 * slope + 0.05 * np.tanh(height) - 0.30 * pits + 0.35 * glints + 0.025 * cloud
    return Scene(_paint((0.16, 0.155, 0.15), (0.68, 0.68, 0.685), share))


def _wood(size: int, rng: Random) -> Scene:
    angle = rng.uniform(-0.06, 0.06)
    _, v = _turned(size, angle, rng)
    ring = v / 13 + 0.85 * _noise(rng, size, 70, 22, angle) + 0.03 * _noise(rng, size, 12, 2, angle)
    phase = ring - np.floor(ring)
    late = phase**2.2 * _step((0.93 - phase) / 0.14)  # darkens slowly through the year and ends abruptly
    fibre, pores = _noise(rng, size, 9, 0.5, angle), np.maximum(_noise(rng, size, 4, 0.45, angle) - 1.5, 0)
    share = 0.75 * late + 0.10 * fibre + 0.22 * pores + 0.06 * _noise(rng, size, 30, 14, angle)
    return Scene(_paint((0.50, 0.66, 0.80), (0.22, 0.38, 0.56), np.clip(share, -0.2, 1.3)), angle, splits=True)


def _ground_tile(size: int, rng: Random) -> Scene:
    u, v = _turned(size, rng.uniform(-np.pi, np.pi), rng)
    cell = 8.5
    u, v = u / cell, v / cell
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    points = rng.random((3, 64, 64), dtype=np.float32)  # x and y of a chip's centre in its cell, and which chip it is
    beside, below = i.astype(np.float32) - u, j.astype(np.float32) - v
    nearest, second = np.full((size, size), 9, np.float32), np.full((size, size), 9, np.float32)
    kind = np.zeros((size, size), np.float32)
    for step_u in (-1, 0, 1):
        for step_v in (-1, 0, 1):
            x, y, chip = points[:, (j + step_v) % 64, (i + step_u) % 64]
            distance = (beside + step_u + x) ** 2 + (below + step_v + y) ** 2
            closer = distance < nearest
            second = np.minimum(second, np.maximum(nearest, distance))
            kind, nearest = np.where(closer, chip, kind), np.minimum(nearest, distance)
    nearest, second = np.sqrt(nearest), np.sqrt(second)
    palette = np.array(
        [[0.66, 0.70, 0.72], [0.78, 0.81, 0.82], [0.48, 0.49, 0.49], [0.52, 0.62, 0.69], [0.38, 0.38, 0.39]], np.float32
    )
    shares = np.searchsorted([0.36, 0.58, 0.74, 0.90], kind)
    edge = _step((second - nearest - 0.16 - 0.25 * (kind * 7 % 1)) * cell / 1.6)[..., None]
    cement = np.array([0.68, 0.71, 0.73], np.float32) * (1 + 0.03 * _noise(rng, size, 0.8, 0.8))[..., None]
    chips = palette[shares] * (1 + 0.03 * _noise(rng, size, 2, 2))[..., None]
    return Scene(cement + edge * (chips - cement))


_MATERIALS: dict[str, Callable[[int, Random], Scene]] = {
    "brushed-metal": _brushed_metal,
    "fabric": _fabric,
    "cast-grain": _cast_grain,
    "wood": _wood,
    "ground-tile": _ground_tile,
}
SURFACES = tuple(_MATERIALS)


# --- defects -------------------------------------------------------------------------------------------------------


def _unit(size: int) -> float:
    """How wide a line of nominal width 1 is: defects grow with the picture, but more slowly than it."""
    return float(np.sqrt(size / 128))


def _scratch(scene: Scene, light: Light, rng: Random) -> Image:
    size = len(scene.reflectance)
    angle = rng.uniform(0.45, np.pi - 0.45) + (scene.grain or 0)  # along the grain nobody could tell it from grain
    length, bend = rng.uniform(0.45, 0.85) * size, rng.uniform(-0.08, 0.08)
    t = np.linspace(-0.5, 0.5, int(2 * length) + 2)
    side = bend * length * (1 - 4 * t * t)
    centre = (size - 1) / 2 + rng.uniform(-0.22, 0.22, 2) * size
    x = centre[0] + np.cos(angle) * t * length - np.sin(angle) * side
    y = centre[1] + np.sin(angle) * t * length + np.cos(angle) * side
    width = rng.uniform(1.0, 1.9) * _unit(size) * (0.35 + 0.65 * np.cos(np.pi * t) ** 0.5)
    press = np.interp(t, np.linspace(-0.5, 0.5, 12), rng.uniform(0.6, 1, 12))
    turn = np.sign(np.cos(angle + np.pi / 2 - light.direction)) or 1.0  # the shaded wall of the groove faces away
    gap = 0.75 * width * turn
    bright = _stroke(size, x, y, width, press)
    dark = _stroke(size, x - np.sin(angle) * gap, y + np.cos(angle) * gap, width, press)
    tone = 1.0 if scene.reflectance.mean() < 0.65 else -0.8  # bare metal shines; on pale material dirt fills the groove
    return np.asarray(np.repeat((tone * (bright - 0.45 * dark * (1 - bright)))[..., None], 3, 2), np.float32)


def _crack(scene: Scene, light: Light, rng: Random) -> Image:
    size = len(scene.reflectance)
    heading = rng.uniform(0, 2 * np.pi)
    if scene.splits and scene.grain is not None:
        heading = scene.grain + rng.normal(0, 0.12)
    reach = rng.uniform(0.4, 0.65) * size
    start = rng.uniform(0.3, 0.7, 2) * size - 0.5 * reach * np.array([np.cos(heading), np.sin(heading)])
    sway, spread = (0.08, 0.35) if scene.splits else (0.16, 1.0)
    paths = [(start, heading, reach, 1.5)]
    cover = np.zeros((size, size), np.float32)
    for number in range(1 + int(rng.integers(2, 5))):
        start, angle, length, width = paths[number]
        steps = max(4, int(length / 4))
        turns = angle + np.cumsum(rng.normal(0, sway, steps)) + rng.normal(0, 2 * sway, steps)
        corners = start + np.cumsum(np.stack([np.cos(turns), np.sin(turns)], 1), 0) * (length / steps)
        t = np.linspace(0, steps - 1, int(2 * length) + 2)
        x, y = (np.interp(t, np.arange(steps), corners[:, axis]) for axis in (0, 1))
        taper = width * _unit(size) * (1.05 - 0.75 * t / steps)
        cover = np.maximum(cover, _stroke(size, x, y, taper, np.clip(taper, 0.5, 1)))
        fork = int(rng.integers(steps // 4, max(steps // 4 + 1, 3 * steps // 4)))
        lean = spread * rng.choice([-1, 1]) * rng.uniform(0.5, 1.0)
        paths.append((corners[fork], turns[fork] + lean, rng.uniform(0.3, 0.6) * length, 0.8 * width))
        paths.append((corners[-1 - fork // 2], angle - lean, rng.uniform(0.25, 0.45) * length, 0.75 * width))
    return np.asarray((np.float32(0.04) - scene.reflectance) * cover[..., None], np.float32)


def _stain(scene: Scene, light: Light, rng: Random) -> Image:
    size = len(scene.reflectance)
    radius = rng.uniform(0.09, 0.17) * size
    _, _, depth = _blob(rng, size, radius, 0.42)
    rim = np.exp(-(((depth - 0.06 * radius) / (0.09 * radius)) ** 2))  # what dries last dries at the edge
    cover = _step(depth / (0.18 * radius)) * (0.8 + 0.1 * _noise(rng, size, 0.3 * radius, 0.3 * radius) + 0.45 * rim)
    tint = np.array([[1.25, 1.0, 0.75], [1.0, 1.0, 1.0], [0.85, 1.0, 1.15]], np.float32)[rng.integers(3)]
    return np.asarray(-scene.reflectance * np.maximum(cover, 0)[..., None] * tint, np.float32)


def _dent(scene: Scene, light: Light, rng: Random) -> Image:
    size = len(scene.reflectance)
    radius = rng.uniform(0.10, 0.18) * size
    x, y, depth = _blob(rng, size, radius, 0.12)
    rest = np.clip(depth / radius, 0, 1)
    towards = (np.cos(light.direction) * x + np.sin(light.direction) * y) / radius
    slope = -towards * rest * 4  # the wall next to the lamp lies in shade, the far wall catches its light
    gleam = np.exp(-((towards + 0.5) ** 2) / 0.02) * rest**2
    return np.asarray(scene.reflectance.mean() * (slope + 0.25 * gleam)[..., None], np.float32)


def _hole(scene: Scene, light: Light, rng: Random) -> Image:
    size = len(scene.reflectance)
    radius = rng.uniform(0.035, 0.075) * size + 1
    x, y, depth = _blob(rng, size, radius, 0.3)
    inside = _step((depth + 0.7 * _noise(rng, size, 1, 1)) / 2)
    towards = (np.cos(light.direction) * x + np.sin(light.direction) * y) / radius
    wall = np.clip(-towards - 0.35, 0, 1) * _step(depth / 2) * 0.25
    return np.asarray((np.float32(0.07) + wall[..., None] - scene.reflectance) * inside[..., None], np.float32)


def _missing_thread(scene: Scene, light: Light, rng: Random) -> Image:
    size = len(scene.reflectance)
    way = int(rng.integers(2))
    number, without = scene.threads[way]
    column, row = (rng.uniform(0.2, 0.8, 2) * size).astype(int)
    length = rng.uniform(0.45, 1.6) * size  # more than the picture: the thread is missing from edge to edge
    start = rng.uniform(0, 1) * (size - length)
    along = np.arange(size)[:, None] if way == 0 else np.arange(size)[None]
    gone = (number == number[row, column]) & (along >= start) & (along <= start + length)
    return np.asarray((without - scene.reflectance) * gone[..., None], np.float32)


def _loose_thread(scene: Scene, light: Light, rng: Random) -> Image:
    size = len(scene.reflectance)
    length = rng.uniform(0.4, 0.8) * size
    count = int(2 * length) + 2
    turns = rng.uniform(0, 2 * np.pi) + np.interp(
        np.linspace(0, 1, count), np.linspace(0, 1, 6), np.cumsum(rng.normal(0, 0.8, 6))
    )
    path = np.cumsum(np.stack([np.cos(turns), np.sin(turns)]), 1) * (length / count)
    path += rng.uniform(0.35, 0.65, (2, 1)) * size - path.mean(1, keepdims=True)
    width = np.full(count, rng.uniform(1.6, 2.4) * _unit(size))
    thread = _stroke(size, path[0], path[1], width, np.ones(count))[..., None]
    shadow = _stroke(size, path[0] + 1.5, path[1] + 1.5, width, np.ones(count))[..., None]
    colours = np.array([[0.93, 0.95, 0.95], [0.20, 0.18, 0.70], [0.10, 0.09, 0.09]], np.float32)
    colour = colours[rng.integers(3)]
    return np.asarray(
        thread * (colour - scene.reflectance) - 0.5 * shadow * (1 - thread) * scene.reflectance, np.float32
    )


_DEFECTS = {
    "scratch": Defect(_scratch, (2.6, 4.0)),
    "crack": Defect(_crack, (3.4, 4.8)),
    "stain": Defect(_stain, (1.4, 2.0)),
    "dent": Defect(_dent, (1.7, 2.5)),
    "hole": Defect(_hole, None),
    "missing-thread": Defect(_missing_thread, None),
    "loose-thread": Defect(_loose_thread, None),
    "faint-scratch": Defect(_scratch, (0.9, 1.3)),
    "faint-stain": Defect(_stain, (0.6, 0.9)),
}
DEFECTS = tuple(_DEFECTS)
SURFACE_DEFECTS: dict[str, tuple[str, ...]] = {
    "brushed-metal": ("scratch", "stain", "dent", "crack", "faint-scratch", "faint-stain"),
    "fabric": ("missing-thread", "stain", "hole", "loose-thread", "faint-stain"),
    "cast-grain": ("crack", "scratch", "hole", "stain", "dent", "faint-scratch", "faint-stain"),
    "wood": ("scratch", "crack", "stain", "dent", "hole", "faint-scratch", "faint-stain"),
    "ground-tile": ("crack", "scratch", "stain", "hole", "faint-scratch", "faint-stain"),
}


# --- photographs ---------------------------------------------------------------------------------------------------


def _light(size: int, rng: Random) -> Light:
    x, y = _axes(size)
    direction = -3 * np.pi / 4 + rng.uniform(-0.3, 0.3)
    fall = rng.uniform(0.03, 0.12) * (np.cos(direction) * x + np.sin(direction) * y) / size
    corners = rng.uniform(0.02, 0.08) * (x * x + y * y) / size**2
    colour = rng.uniform(0.95, 1.05) * rng.normal(1, 0.004, 3)
    return Light(((1 + fall - corners)[..., None] * colour).astype(np.float32), float(direction))


def _soften(image: Image) -> Image:
    """The lens: three pixels (0.18, 0.64, 0.18) down and across."""
    tall = np.pad(image, ((1, 1), (0, 0), (0, 0)), "edge")
    image = np.float32(0.64) * image + np.float32(0.18) * (tall[:-2] + tall[2:])
    wide = np.pad(image, ((0, 0), (1, 1), (0, 0)), "edge")
    return np.float32(0.64) * image + np.float32(0.18) * (wide[:, :-2] + wide[:, 2:])


def _photograph(surface: str, size: int, rng: Random) -> tuple[Scene, Light, Image]:
    if surface not in _MATERIALS:
        raise ConfigError(f"no surface {surface}; there are: {', '.join(SURFACES)}")
    if size < SMALLEST:
        raise ConfigError(f"size {size}: a part needs at least {SMALLEST} pixels a side")
    scene = _MATERIALS[surface](size, rng)
    light = _light(size, rng)
    seen = np.clip(_soften(scene.reflectance) * light.field, 0, 1)
    grains = rng.standard_normal(seen.shape, dtype=np.float32)
    image = np.clip(seen + grains * (0.004 + 0.008 * np.sqrt(seen)), 0, 1)
    return scene, light, image.astype(np.float32)


def draw_good(surface: str, size: int, rng: np.random.Generator) -> Image:
    """A good part (size, size, 3) float32 BGR in [0, 1]. Raises ConfigError for an unknown surface or a size < 32."""
    return _photograph(surface, size, rng)[2]


def draw_defective(surface: str, defect: str, size: int, rng: np.random.Generator) -> tuple[Image, Mask]:
    """A defective part (size, size, 3) float32 BGR in [0, 1] and its mask (size, size), True where defective.

    With `rng` in the same state, `draw_good` draws the same part without the defect: it differs by more than 2/255 in
    some channel wherever the mask is True, and not at all elsewhere. Raises ConfigError for an unknown surface, a
    defect that the surface cannot have, or a size < 32.
    """
    scene, light, good = _photograph(surface, size, rng)
    if defect not in SURFACE_DEFECTS[surface]:
        raise ConfigError(f"no defect {defect} on {surface}; there are: {', '.join(SURFACE_DEFECTS[surface])}")
    kind = _DEFECTS[defect]
    change = _soften(kind.change(scene, light, rng)) * light.field
    if kind.contrast is not None:
        grey = np.abs(change.mean(2))
        wanted = np.clip(rng.uniform(*kind.contrast) * float(good.mean(2).std()), *CONTRASTS)
        change *= wanted / max(float(grey[grey > 0.35 * grey.max()].mean()), 1e-6)
    bad = np.clip(good + change, 0, 1).astype(np.float32)
    mask = (np.abs(bad - good) > VISIBLE).any(2)
    return np.where(mask[..., None], bad, good), mask


# --- a folder of parts ---------------------------------------------------------------------------------------------


def write_sample_parts(folder: Path, surface: str, size: int, train: int, good: int, bad: int, seed: int) -> None:
    """Write parts as PNG in the layout of MVTec AD: train/good, test/good, test/<defect>, ground_truth/<defect>.

    The `bad` parts are spread evenly over the surface's defects. A part depends on the seed and its own number only,
    not on how many are drawn. An earlier output of this function is replaced.
    Raises ConfigError for unknown names or sizes, DataError when the folder holds anything else or cannot be written.
    """
    if seed < 0 or min(train, good, bad) < 0:
        raise ConfigError(f"seed {seed}, parts {train}, {good}, {bad}: none may be negative")
    _photograph(surface, size, np.random.default_rng(0))  # refuses bad arguments before anything is replaced
    folder = Path(folder)
    try:
        _clear(folder)
        title = f"{_MARK}: {surface}, {size} pixels, seed {seed}"
        counts = f"{train} to learn from, {good} good and {bad} defective to test with"
        (folder / README).write_text(f"{title}; {counts}.\n", encoding="utf-8")
        for split, count, name in ((0, train, "train/good"), (1, good, "test/good")):
            (folder / name).mkdir(parents=True)
            for index in range(count):
                image = draw_good(surface, size, np.random.default_rng([seed, split, index]))
                write_image(folder / name / f"{index:03}.png", to_uint8(image))
        defects = SURFACE_DEFECTS[surface]
        for index in range(bad):
            defect, number = defects[index % len(defects)], index // len(defects)
            image, mask = draw_defective(surface, defect, size, np.random.default_rng([seed, 2, index]))
            for kind in ("test", "ground_truth"):
                (folder / kind / defect).mkdir(parents=True, exist_ok=True)
            write_image(folder / "test" / defect / f"{number:03}.png", to_uint8(image))
            write_image(folder / "ground_truth" / defect / f"{number:03}_mask.png", mask.astype(np.uint8) * 255)
    except OSError as problem:
        reason = problem.strerror or type(problem).__name__
        raise DataError(f"cannot write parts to {folder}: {reason}; choose another folder") from problem


def _clear(folder: Path) -> None:
    """Make `folder` an empty folder; refuse when it holds anything that `write_sample_parts` did not write."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    if not any(folder.iterdir()):
        return
    readme = folder / README
    own = readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(_MARK)
    if not own or any(name != README and not _OWN.fullmatch(name) for name in files):
        raise DataError(f"{folder} holds files that are not sample parts; choose an empty or new folder")
    for name in ("train", "test", "ground_truth"):
        shutil.rmtree(folder / name, ignore_errors=True)
    readme.unlink()
