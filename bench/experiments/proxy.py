"""Score maps of a memory bank on cached feature maps, and what fusions of several make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.familiarity import Density, Moments
from flawmap.train.core_set import core_set

CACHE = Path("/tmp/fx")


class Source(NamedTuple):
    side: int
    rows: tuple[int, ...]
    grid: int  # row whose grid is used
    pool: int = 3  # mean of each row's own cells
    around: int = 1  # mean on the grid
    shrink: float = 0.1
    bank: int = 2000
    dims: int = 0
    k: int = 1


def load(name: str, side: int) -> dict[str, Any]:
    note = dict(np.load(CACHE / f"{name}-{side}.npz"))
    return note


_open: dict[tuple[str, int, int], Any] = {}


def feats(name: str, side: int, row: int) -> Any:
    key = name, side, row
    if key not in _open:
        _open[key] = np.load(CACHE / f"{name}-{side}-row{row}.npy", mmap_mode="r")
    return _open[key]


def features(name: str, source: Source, index: int) -> Tensor:
    """(C, h, w) of one photo."""
    rows = [torch.from_numpy(np.asarray(feats(name, source.side, row)[index])).float()[None] for row in source.rows]
    size = feats(name, source.side, source.grid).shape[-2:]
    out = []
    for row in rows:
        if source.pool > 1:
            row = nn.functional.avg_pool2d(row, source.pool, 1, source.pool // 2, count_include_pad=False)
        if row.shape[-2:] != size:
            row = nn.functional.interpolate(row, size=size, mode="bilinear", align_corners=False)
        out.append(row)
    x = torch.cat(out, 1)[..., 1:-1, 1:-1]
    if source.around > 1:
        x = nn.functional.avg_pool2d(x, source.around, 1)
    return x[0]


def split(count: int, seed: int = 0) -> tuple[list[int], list[int]]:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    calib = sorted(order[: max(count // 5, 6)])
    return [i for i in range(count) if i not in set(calib)], calib


@torch.no_grad()
def score_maps(name: str, source: Source, seed: int = 0, cells: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """(calibration maps, test maps), log mean squared distance on the source's cropped grid, float32."""
    key = CACHE / "maps" / f"{name}-{'_'.join(map(str, source)).replace(' ', '')}-{seed}.npz"
    if key.exists():
        found = np.load(key)
        return found["c"], found["t"]
    note = load(name, source.side)
    n, m = len(note["good"]), len(note["test"])
    train, calib = split(n, seed)
    first = features(name, source, 0)
    moments = Moments(len(first))
    for i in train:
        moments.add(features(name, source, i)[None])
    density = Density(len(first))
    density.fit(moments.mean(), moments.covariance(), source.shrink)
    proj = None
    if source.dims:
        values, vectors = torch.linalg.eigh(moments.covariance())
        proj = vectors[:, -source.dims :].float()
        density = Density(source.dims)
        density.fit(proj.double().t() @ moments.mean(), torch.diag(values[-source.dims :]), source.shrink)
    def white(i: int) -> Tensor:
        x = features(name, source, i).flatten(1).t()
        return density.white(x @ proj if proj is not None else x)
    if source.bank:
        room = max(cells // len(train), 16)
        pool = []
        for i in train:
            w = white(i)
            pool.append(w[:: max(-(-len(w) // room), 1)])
        points = torch.cat(pool)
        g = torch.Generator().manual_seed(42)
        d = points.shape[1]
        directions = torch.linalg.qr(torch.randn(d, min(64, d), generator=g))[0]
        bank = points[core_set(points @ directions, source.bank)]
        sq = bank.square().sum(1)
    def distance(i: int) -> Tensor:
        w = white(i)
        if source.bank:
            dist = (w.square().sum(1) + (sq - 2 * w @ bank.t()).amin(1)) if source.k == 1 else (
                w.square().sum(1) + (sq - 2 * w @ bank.t()).topk(source.k, largest=False).values.mean(1))
        else:
            dist = w.square().sum(1)
        h, wd = features_shape
        return torch.log(dist.clamp_min(0) / w.shape[1] + 1e-6).view(h, wd)
    features_shape = tuple(first.shape[1:])
    c = np.stack([distance(i).numpy() for i in calib])
    t = np.stack([distance(n + i).numpy() for i in range(m)])
    key.parent.mkdir(exist_ok=True)
    np.savez(key, c=c, t=t)
    return c, t


def smooth(maps: np.ndarray, k: int) -> np.ndarray:
    if k <= 1:
        return maps
    x = torch.from_numpy(maps)[:, None]
    return nn.functional.avg_pool2d(nn.functional.pad(x, (k // 2,) * 4, mode="replicate"), k, 1)[:, 0].numpy()


def deviations(c: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps in deviations of the calibration photos' maxima: (x - median) / robust spread."""
    peak = c.reshape(len(c), -1).max(1)
    mid = np.median(peak)
    spread = max(np.quantile(peak, 0.9) - mid, 0.02) / 1.2816
    return (c - mid) / spread, (t - mid) / spread


def full(maps: np.ndarray, size: tuple[int, int], crop: int, stride_cells: tuple[int, int]) -> np.ndarray:
    """Pad the cropped grid back and enlarge to `size`."""
    x = torch.from_numpy(maps)[:, None]
    x = nn.functional.pad(x, (crop,) * 4, mode="replicate")
    return nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)[:, 0].numpy()


def measure(name: str, side: int, maps: np.ndarray | None, scores: np.ndarray) -> tuple[float, float]:
    note = load(name, side)
    auc = image_auroc(note["defective"], scores.astype(np.float64))
    known, masks = note["known"], note["masks"]
    if maps is None or not masks[known].any():
        return auc, float("nan")
    h, w = maps.shape[1:]
    m = torch.nn.functional.adaptive_max_pool2d(torch.from_numpy(masks[known].astype(np.float32)), (h, w)).numpy() > 0
    return auc, image_ap(m.reshape(-1), maps[known].reshape(-1).astype(np.float64))
