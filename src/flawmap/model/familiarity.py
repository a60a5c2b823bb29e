"""How familiar features are from good parts: further evidence of a defect beside detection's map (beyond DSR).

Detection finds what resembles the defects it was trained on. What good parts look like is also known from features as
such: a Gaussian is fitted to those of good photos, and a place far from its mean is unlike all of them (Rippel et al.
2021; Defard et al. 2021). Four kinds of features are at hand, each blind where the next sees: the discrete encoder's
early ones, the same of the image with its local brightness and contrast levelled, detection's inner ones, and those of
a network that learnt from ImageNet (imagenet.py). Of these, places of good photos may be remembered: what counts is
then the distance from the most alike of them, not from the mean (nearest neighbours; Roth et al. 2022).

Each kind of evidence is measured by how rare so much of it is among good parts: the largest value on each good photo
is mapped to the normal distribution, quantile by quantile. Kinds differ in their tails, and by mean and deviation alone
the one with the longest would decide what is an outlier. An image is as suspicious as its most suspicious places: there
the strongest evidence decides, or the logarithm of the mean of their exponentials, to which others that agree add, or
the mean of all.
Each kind counts in proportion to how well it finds defects painted onto good parts; one that hardly finds them is left
out, and the map that is shown is of all evidence together or of detection alone (train/familiar.py).

Axes: B images, C channels, H, W rows and columns of the image, h, w of features.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from flawmap.model.blocks import enlarged
from flawmap.model.guided import guided

Source = Literal["encoder", "local", "detection", "imagenet", "imagenet_high"]
Fusion = Literal["maximum", "log-mean-exp", "mean"]
MAP = "map"  # detection's own map, among the evidence
PHOTO = "photo"  # among the features where maps are guided: the image itself
LOW, HIGH = "imagenet", "imagenet_high"  # pretrained features of low and of high resolution (imagenet.py)
PRETRAINED = (LOW, HIGH)  # features of which patches of good photos may be kept in a memory bank
CELL = 4  # pixels along the side of a cell of the encoder's early features
AROUND = 5  # cells along the side of the square that ImageNet's features are a mean over, where nothing else is said
FEWEST_CELLS = 5  # along a side, of which the outermost can be spared
WINDOW = 41  # pixels along the side of the square in which brightness and contrast are levelled
DIMMEST = 0.02  # added to the deviation in a window, of 1, before dividing by it: noise is not blown up
CLIP = 4.0  # deviations, beyond which a levelled image is clipped
FLOOR = 1e-6  # added to mean squared distances before their logarithm
COMPONENTS_FLOOR = 1e-3  # the same of principal components: below it runtimes differ in what they round
SHRINKAGE = 1e-3  # of the mean variance, added to every variance
SHRINKAGE_OF_MEMORY = 0.1  # the same where the distance from the nearest counts
STEEPNESS = 0.5  # of the map, per deviation above good parts
LEAST = -4.0  # deviations that a source counts as at least in the map, and in a mean, where that is bounded
LOW_SHARE = 1 / 3  # of the low resolution in a bounded map, where the high one is there: it tells whether, not where
SOFTNESS = 2.0  # deviations, by which exponentials of evidence grow e times: the larger, the nearer to the mean of all
KNOTS = 10  # of each kind of evidence, between which its deviations above good parts are linear


class Density(nn.Module):
    """A Gaussian of features (B, C, h, w) of good parts; until it is fitted, of mean 0 and variance 1.

    `components`: how many principal components of the features are kept, D of C; 0 keeps all.

    With a `memory` (N, C) of features of good parts, whitened, what counts is the distance from the nearest of these
    instead of that from the mean (nearest neighbours; Roth et al. 2022), in the Gaussian's deviations as before.
    """

    mean: Tensor
    whitening: Tensor
    memory: Tensor | None

    def __init__(self, channels: int, components: int = 0) -> None:
        super().__init__()
        self.components = min(components, channels) or channels
        self.floor = COMPONENTS_FLOOR if components else FLOOR
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("whitening", torch.eye(channels, self.components))
        self.register_buffer("memory", None)

    @torch.no_grad()
    def fit(self, mean: Tensor, covariance: Tensor, shrinkage: float = SHRINKAGE) -> None:
        """Take mean (C,) and covariance (C, C), float64, shrunken towards a multiple of the identity.

        With fewer `components` than channels, only the directions in which good parts vary most are kept (PCA).
        """
        if self.components < len(mean):
            variances, directions = torch.linalg.eigh(covariance)  # ascending
            variances, directions = variances[-self.components :], directions[:, -self.components :]
            ridge = shrinkage * variances.mean().clamp_min(1e-6)
            self.mean.copy_(mean)
            self.whitening.copy_(directions * (variances.clamp_min(0) + ridge).rsqrt())
            return
        ridge = shrinkage * covariance.diagonal().mean().clamp_min(1e-6)
        factor = torch.linalg.cholesky(covariance + ridge * torch.eye(len(mean), dtype=covariance.dtype))
        identity = torch.eye(len(mean), dtype=covariance.dtype)
        self.mean.copy_(mean)
        self.whitening.copy_(torch.linalg.solve_triangular(factor, identity, upper=False).t())

    def white(self, cells: Tensor) -> Tensor:
        """Features (..., C) in deviations from the mean, in directions that vary independently of one another."""
        return (cells.float() - self.mean) @ self.whitening

    @torch.no_grad()
    def remember(self, cells: Tensor | None) -> None:
        """Take features (N, C) of good parts as the memory; None: forget it."""
        self.memory = None if cells is None else self.white(cells.to(self.mean.device))

    def forward(self, features: Tensor) -> Tensor:
        """Logarithm of the mean squared distance, in deviations: (B, C, h, w) -> (B, 1, h, w).

        By matrix products, which stay in full precision where convolutions do not (deploy/quantize.py).
        """
        with torch.autocast(features.device.type, enabled=False):
            white = self.white(features.permute(0, 2, 3, 1))
            distances = white.square().sum(-1)
            if self.memory is not None:
                distances = (distances + self.nearest(white)).clamp_min(0)
            return torch.log(distances / white.shape[-1] + self.floor).unsqueeze(1)

    def nearest(self, white: Tensor) -> Tensor:
        """Squared distance from the nearest in memory, short of the features' own |x|^2: (..., C) -> (...)."""
        assert self.memory is not None, "nothing is remembered"
        return (self.memory.square().sum(-1) - 2 * white @ self.memory.t()).amin(-1)


class Familiarity(nn.Module):
    """The evidence of `sources`, each with the channels of its features, fused with detection's map.

    `knots` and `heights` (kinds, KNOTS) hold, for the map and then each source, ascending evidence and how many
    deviations above good parts that counts as, linear between and beyond; `shares` how much of each is in the map that
    is shown. Until they are set, evidence counts as it is, and all kinds alike. `guided`: half of the map that is shown
    takes its outlines from the image (guided.py), which is then among the features, by the name of PHOTO. `around`:
    cells along the side of the square that features of low resolution are a mean over; `components`: principal
    components that are kept of these, 0 for all. `bounded`: in a mean, as the map is one, each source counts as no less
    than its `floors` (kinds,): a place that is ordinary by one source must not outweigh what another finds there.
    """

    knots: Tensor
    heights: Tensor
    shares: Tensor
    floors: Tensor | None

    def __init__(
        self,
        sources: Mapping[Source, int],
        fusion: Fusion = "maximum",
        guided: bool = False,
        around: int = AROUND,
        components: int = 0,
        bounded: bool = False,
    ) -> None:
        super().__init__()
        self.fusion, self.guided = fusion, guided
        self.around = {LOW: around, HIGH: min(around, 3)}
        self.densities = nn.ModuleDict(
            {name: Density(channels, components if name in PRETRAINED else 0) for name, channels in sources.items()}
        )
        unset = torch.arange(KNOTS, dtype=torch.float32).repeat(1 + len(sources), 1)
        self.register_buffer("knots", unset)
        self.register_buffer("heights", unset.clone())
        self.register_buffer("shares", torch.full((1 + len(sources),), 1 / (1 + len(sources))))
        self.register_buffer("floors", torch.full((1 + len(sources),), LEAST) if bounded else None)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the features that are looked at, in the order of `levels` behind the map."""
        return tuple(self.densities)

    def named_densities(self) -> Iterator[tuple[str, Density]]:
        """Each source's name and Gaussian."""
        for name, density in self.densities.items():
            assert isinstance(density, Density)
            yield name, density

    def components_of(self, name: str) -> int:
        """Principal components that are kept of a source's features."""
        density = self.densities[name]
        assert isinstance(density, Density)
        return density.components

    def evidence(self, logits: Tensor, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Evidence of the map (B, 1, H, W), then of each source (B, 1, H/4, W/4), not yet set against good parts.

        `logits` (B, 2, H, W) are detection's, `features` (B, C, h, w) each source's. A source's is a mean over 3 by 3
        cells of (H/4, W/4), of pretrained features that of their mean over `around` by `around` cells; that of the
        outermost cells is their neighbours'.
        """
        logits = logits.float()
        found = [(logits[:, 1:] - logits[:, :1]).clamp(-12, 12)]
        size = [side // CELL for side in logits.shape[-2:]]
        for name, density in self.named_densities():
            if name in PRETRAINED:
                distance = _of_surroundings(density, features[name], self.around[name])
                found.append(enlarged(distance, torch.Size(size)))
                continue
            distance = density(features[name])
            if list(distance.shape[-2:]) != size:
                distance = nn.functional.interpolate(distance, size=size, mode="bilinear", align_corners=False)
            means = nn.functional.avg_pool2d(within_border(distance), 3, stride=1)
            found.append(nn.functional.pad(means, (2, 2, 2, 2), mode="replicate"))
        return found

    def forward(self, logits: Tensor, features: Mapping[str, Tensor], side: int = 1) -> tuple[Tensor, Tensor]:
        """Two maps (B, H, W) in [0, 1]: the one to show, and all evidence as one, whose largest values are the score.

        0.5 is what good parts come to. To the second, detection's map counts as its mean over a square of odd `side`.
        Arguments as of `evidence`.
        """
        found = self.evidence(logits, features)
        shown = self.shares[0] * self._bounded(0, self._calibrated(0, found[0]))
        mean = nn.functional.avg_pool2d(found[0], side, 1, side // 2, count_include_pad=False) if side > 1 else found[0]
        fused = self._in_fusion(0, self._calibrated(0, mean))
        sources = [self._calibrated(number, cells) for number, cells in enumerate(found[1:], 1)]
        if sources:
            together, one = self.shares[1] * self._bounded(1, sources[0]), self._in_fusion(1, sources[0])
            for number, cells in enumerate(sources[1:], 2):
                together = together + self.shares[number] * self._bounded(number, cells)
                one = self._fuse_pair(one, self._in_fusion(number, cells))
            shown = shown + enlarged(together, logits.shape[-2:])
            fused = self._fuse_pair(fused, nn.functional.interpolate(one, size=logits.shape[-2:]))
        fused = self._fused(fused, 1 + len(sources))
        if self.guided:
            shown = (shown + guided(shown, features[PHOTO])) / 2
        return torch.sigmoid(STEEPNESS * shown[:, 0]), torch.sigmoid(STEEPNESS * fused[:, 0])

    def _bounded(self, number: int, deviations: Tensor) -> Tensor:
        """What a source counts as in the map, for what its deviations count as."""
        return deviations if self.floors is None else torch.maximum(deviations, self.floors[number])

    def above(self, logits: Tensor, features: Mapping[str, Tensor]) -> list[Tensor]:
        """Each evidence above what good parts come to, in what its deviations count as: (B, H, W).

        Arguments as of `evidence`.
        """
        found = [self._calibrated(number, found) for number, found in enumerate(self.evidence(logits, features))]
        return [enlarged(each, logits.shape[-2:])[:, 0] for each in found]

    def _calibrated(self, number: int, found: Tensor) -> Tensor:
        """What evidence (B, 1, h, w) counts as, for its deviations above good parts: a sum of ramps, none negative.

        Ramp by ramp: OpenVINO makes one pass of it, where summing along an axis of all ramps takes ten times as long.
        """
        knots, heights = self.knots[number], self.heights[number]
        widths = knots[1:] - knots[:-1]
        slopes = (heights[1:] - heights[:-1]) / widths
        counted = heights[0] - (knots[0] - found).clamp_min(0) * slopes[0]
        for ramp in range(KNOTS - 2):
            counted = counted + torch.minimum((found - knots[ramp]).clamp_min(0), widths[ramp]) * slopes[ramp]
        return counted + (found - knots[-2]).clamp_min(0) * slopes[-1]

    def _in_fusion(self, number: int, deviations: Tensor) -> Tensor:
        """A source's score map as it is fused with others: in a mean, bounded below."""
        return self._bounded(number, deviations) if self.fusion == "mean" else deviations

    def _fuse_pair(self, one: Tensor, other: Tensor) -> Tensor:
        """Two score maps, or one and several fused before, as one; `_fused` completes it."""
        if self.fusion == "mean":
            return one + other
        most = torch.maximum(one, other)
        if self.fusion == "maximum":
            return most
        return most + SOFTNESS * torch.log1p(torch.exp(-(one - other).abs() / SOFTNESS))

    def _fused(self, joined: Tensor, kinds: int) -> Tensor:
        """The fusion of so many score maps, completed: 0 where all are 0."""
        if self.fusion == "mean":
            return joined / kinds
        return joined if self.fusion == "maximum" else joined - SOFTNESS * math.log(kinds)

    def together(self, largest: Tensor) -> Tensor:
        """Each kind's largest evidence (kinds,) as one, in deviations above good parts: a number.

        What an image comes to if these lie in one place; if they do not, `maximum` comes to the same, and
        `log-mean-exp` and `mean` to no more.
        """
        found = [self._calibrated(number, value.float().view(1, 1, 1, 1)) for number, value in enumerate(largest)]
        found = [self._in_fusion(number, value) for number, value in enumerate(found)]
        return self._fused(functools.reduce(self._fuse_pair, found), len(found)).squeeze()

    def make_room(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        """Give each Gaussian a memory as large as the one among `tensors`, which are then loaded, or none."""
        for name, density in self.named_densities():
            stored = tensors.get(f"{prefix}densities.{name}.memory")
            density.memory = None if stored is None else torch.zeros_like(stored, dtype=torch.float32)

    def keep(self, sources: Collection[str]) -> None:
        """Leave out all sources but these."""
        kept = [0, *(1 + number for number, name in enumerate(self.sources) if name in sources)]
        for name in self.sources:
            if name not in sources:
                del self.densities[name]
        self.knots, self.heights = self.knots[kept].clone(), self.heights[kept].clone()
        self.floors = None if self.floors is None else self.floors[kept].clone()
        self.share(len(kept) > 1)

    def share(self, together: bool, own: float = 1.0) -> None:
        """Whether the map that is shown is of all evidence, as far as each counts, or of detection's own map alone.

        Among all, detection's own counts by a factor `own` of what it counts in the score.
        """
        self.shares = torch.full_like(self.shares[:1], 1 / len(self.knots) if together else 0.0).repeat(len(self.knots))
        if not together:
            self.shares[0] = 1
            return
        self.shares[0] *= own
        if self.floors is not None and {LOW, HIGH} <= {*self.sources}:
            self.shares[1 + self.sources.index(LOW)] *= LOW_SHARE
        self.shares /= self.shares.sum()


def _of_surroundings(density: Density, features: Tensor, around: int) -> Tensor:
    """Evidence of each cell by the mean of its surroundings: (B, C, h, w) -> (B, 1, h, w).

    A mean of features less what is usual, before its length is taken: what lies off in the same way over several cells
    adds up, and what merely varies cancels out. The outermost cells are as their neighbours.
    """
    distance = density(surroundings(features, around))
    cut = (features.shape[-1] - distance.shape[-1]) // 2
    return nn.functional.pad(distance, (cut, cut, cut, cut), mode="replicate") if cut else distance


def surroundings(features: Tensor, around: int = AROUND) -> Tensor:
    """Mean of features (B, C, h, w) over `around` by `around` cells, of those that lie within: (B, C, h', w').

    The outermost cells are left out; h' = h - 2 - (around - 1) and so w', on small grids more.
    """
    inner = within_border(features).float()
    height, width = inner.shape[-2:]
    side = min(around, height - 1 + height % 2, width - 1 + width % 2)  # odd, so that it has a middle
    return nn.functional.avg_pool2d(inner, side, stride=1) if side > 1 else inner


def within_border(features: Tensor) -> Tensor:
    """Features (B, C, h, w) without the outermost cells, in which the zeros beyond the image show: as rare as a defect.

    (B, C, h - 2, w - 2); with fewer than FEWEST_CELLS along a side, all.
    """
    return features[..., 1:-1, 1:-1] if min(features.shape[-2:]) >= FEWEST_CELLS else features


def levelled(image: Tensor) -> Tensor:
    """An image (B, 3, H, W) in [0, 1] less its mean in a window about each pixel, over its deviation there.

    Moved back into [0, 1]: 0.5 is the mean, and CLIP deviations are a half. Beyond the border nothing counts.
    """

    image = image.float().contiguous()
    centred = image - _window_mean(image)
    deviation = _window_mean(centred.square()).clamp_min(0).sqrt()
    return (centred / (deviation + DIMMEST)).clamp(-CLIP, CLIP) / (2 * CLIP) + 0.5


def _window_mean(x: Tensor) -> Tensor:
    """Mean in a window about each pixel, of what of it lies in the image, by running sums along columns and rows.

    (B, C, H, W) -> (B, C, H, W). An average pooling of this size takes ten times as long. What is summed is
    less its mean, so that sums stay small: ONNX Runtime's rounding of them showed in the map's fourth decimal.
    """
    level = x.mean((-2, -1), keepdim=True)
    x = x - level
    for axis in (-2, -1):
        length = x.shape[axis]
        place = torch.arange(length, device=x.device)
        first, last = (place - WINDOW // 2).clamp_min(0), (place + WINDOW // 2).clamp_max(length - 1)
        sums = x.cumsum(axis)
        before = nn.functional.pad(sums, (0, 0, 1, 0) if axis == -2 else (1, 0)).index_select(axis, first)
        count = (last - first + 1).to(x.dtype)
        x = (sums.index_select(axis, last) - before) / (count[:, None] if axis == -2 else count)
    return x + level


class Moments:
    """Mean and covariance of features, added up image by image in float64."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, features: Tensor, inside: Tensor | None = None) -> None:
        """Add features (B, C, h, w), where `inside` (h, w) bool if it is given. It may be nowhere."""
        cells = features.permute(0, 2, 3, 1)
        cells = (cells.flatten(0, 2) if inside is None else cells[:, inside].flatten(0, 1)).cpu().double()
        self.count += len(cells)
        self.total += cells.sum(0)
        self.squares += cells.t() @ cells

    @classmethod
    def of(cls, parts: Sequence[Moments]) -> Moments:
        """Those of all that were added to any of `parts`."""
        together = cls(len(parts[0].total))
        for part in parts:
            together.count += part.count
            together.total = together.total + part.total
            together.squares = together.squares + part.squares
        return together

    def without(self, parts: Sequence[Moments]) -> Moments:
        """Those of what is left when `parts`, which were added before, are taken away."""
        rest = Moments.of([self])
        for part in parts:
            rest.count -= part.count
            rest.total, rest.squares = rest.total - part.total, rest.squares - part.squares
        return rest

    @classmethod
    def from_mean(cls, count: int, mean: Tensor, covariance: Tensor) -> Moments:
        """Those of `count` cells of this mean (C,) and covariance (C, C), float64."""
        moments = cls(len(mean))
        moments.count, moments.total = count, count * mean
        moments.squares = count * (covariance + torch.outer(mean, mean))
        return moments

    def mean(self) -> Tensor:
        """(C,) float64."""
        return self.total / self.count

    def covariance(self) -> Tensor:
        """(C, C) float64."""
        mean = self.mean()
        return self.squares / self.count - torch.outer(mean, mean)
