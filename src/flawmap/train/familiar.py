"""After a training: what is familiar of good parts is fitted, set against good parts left out of it, and tried.

Which kinds of features serve depends on the part, and is told by defects painted onto good parts: a kind that hardly
finds them adds false alarms, and is left out. The same defects may tell whether all evidence together outlines
better than detection alone.

Axes: B images or tiles, C channels, H, W rows and columns of the network's input, h, w of features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from flawmap.bundle import round_weights
from flawmap.config import AnomalySettings, Recipe
from flawmap.data.images import Mask, taken_at
from flawmap.data.masks import at_cells
from flawmap.measure.evidence import NONE, GoodEvidence
from flawmap.measure.evidence import Floats as Floats64
from flawmap.measure.metrics import image_ap, image_auroc
from flawmap.model.anomalies import RankTables, rank_tables
from flawmap.model.blocks import enlarged
from flawmap.model.dsr import DSR, Examined, image_score
from flawmap.model.familiarity import (
    MAP,
    PRETRAINED,
    Density,
    Familiarity,
    Moments,
    surroundings,
    within_border,
)
from flawmap.train.core_set import core_set
from flawmap.train.detect import with_defects
from flawmap.train.folds import CELLS as GRID
from flawmap.train.folds import Partition, by_folder, by_runs, grouped
from flawmap.train.loop import seeded
from flawmap.train.sources import FOLDERS, GoodParts

Floats = np.ndarray[Any, np.dtype[np.float32]]

Place = tuple[GoodParts, int]  # a photo: its number in some parts
Chosen = TypeVar("Chosen")

FOLDS = 8
PHOTOS = 256  # good photos that the Gaussians are fitted to, at most
REMEMBERED_PHOTOS = 1024  # good photos of which places are remembered, at most about
IN_MAP = 0.5  # at most, of the weight of detection's map in the map that is shown: it was trained on what weighs it
LEAST = 0.01  # that a kind counts as, next to the best
CELLS = 400_000  # among which those of a group are chosen, at most about
DIRECTIONS = 64  # in which it is told how unlike such places are
QUARTERS = (1, 2, 3)  # turns of a photo whose patches are remembered too, where parts lie at any angle
TURNED_PHOTOS = 200  # good photos that are turned, at most about
TILES = 8  # of each photo, where photos are cut into tiles
PAINTED = 192  # pictures with painted defects that sources are tried on, half as many by `cubed` weights
ADVANTAGE = 1.05  # of detection in outlining painted defects
SEEN = 100  # pixels of a painted defect that must be seen
USEFUL = 0.6  # AUROC on painted defects that a source must come to
KEPT_BYTES = 1 << 30  # of what is seen in good photos, for the next look
UNSTEADY = 0.65  # deviation of a source's largest evidence among good photos, a logarithm, beyond which it tells little
UNEVEN = 0.6  # the same from place to place of good photos, beyond which no Gaussian describes them


class Look(NamedTuple):
    """What is seen in pictures before any evidence is told: detection's logits (B, 2, H, W), and features by source."""

    logits: Tensor
    features: dict[str, Tensor]


class Looks:
    """Looks at good photos, each kept for the next time as far as `room` goes, in bytes; None is KEPT_BYTES.

    Tiles are looked at anew.
    """

    def __init__(self, model: DSR, device: torch.device, room: int | None = None) -> None:
        self.model, self.device = model, device
        self._kept: dict[Place, tuple[Look, Mask | None]] = {}
        self._room = KEPT_BYTES if room is None else room

    def look(self, pictures: Tensor) -> Look:
        """What is seen in pictures (B, 3, H, W)."""
        examined = self.model.examine(pictures)
        return Look(examined.logits, examined.features)

    def at(self, place: Place, limit: int = 0) -> Iterator[tuple[Look, Mask | None]]:
        """Each picture of a photo and what of it counts; `limit` as of `GoodParts.pictures`."""
        parts, index = place
        if place in self._kept:
            yield self._kept[place]
            return
        for pictures, inside in parts.pictures(index, limit):
            seen = self.look(_laid_out(pictures, self.device))
            size = sum(tensor.nbytes for tensor in (seen.logits, *seen.features.values()))
            if parts.whole is not None and size <= self._room:
                self._kept[place] = seen, inside
                self._room -= size
            yield seen, inside

    def pretrained(self, place: Place, limit: int = 0) -> Iterator[tuple[dict[str, Tensor], Mask | None]]:
        """Pretrained features (1, C, h, w) of each picture of a photo by source, and what of it counts; `limit` as of
        `GoodParts.pictures`."""
        parts, index = place
        if place in self._kept:
            for seen, inside in self.at(place):
                yield {name: seen.features[name] for name in PRETRAINED if name in seen.features}, inside
            return
        for picture, inside in parts.pictures(index, limit):
            yield self.model.pretrained(_laid_out(picture, self.device)), inside

    def turned(self, place: Place, limit: int = 0) -> Iterator[tuple[dict[str, Tensor], Mask | None]]:
        """As `pretrained`, of each picture of a photo turned by each of QUARTERS, which loses and blurs nothing.

        A backbone that takes images of one size alone, not square, sees half turns alone.
        """
        parts, index = place
        fixed = getattr(self.model.imagenet, "size", None)
        for picture, inside in parts.pictures(index, limit):
            square = picture.shape[-2] == picture.shape[-1]
            for quarters in QUARTERS if square or fixed is None else (2,):
                turned = torch.rot90(picture, quarters, (-2, -1))
                counts = None if inside is None else np.rot90(inside, quarters).copy()
                yield self.model.pretrained(_laid_out(turned, self.device)), counts

    def score(self, place: Place) -> tuple[float, float]:
        """As `GoodParts.score`, by what familiarity is set to now."""
        parts, index = place
        if parts.whole is None:
            return parts.score(self.model, index, self.device)
        ((seen, inside),) = self.at(place)
        shown, fused = _of(self.model)(seen.logits, seen.features, self.model.map_side)
        stride = self.model.reduction
        shown = enlarged(shown[:, None], torch.Size([stride * side for side in shown.shape[-2:]]))[:, 0]
        if inside is not None:
            counts = torch.from_numpy(inside).to(shown.device)
            shown, fused = shown * counts, fused * counts[::stride, ::stride]
        return float(image_score(fused, self.model.score_rule._replace(stride=1))), float(shown.max())


class CrossFit:
    """What is familiar of good photos: fitted to them, and set against them as against photos it was not fitted to.

    Every photo belongs to a group, whose photos are all left out when evidence is told of one of them. With
    `threshold.calibration` = "cross-fitted" there are FOLDS groups of photos trained on and held out alike, each of
    whole folders where those were held out: every photo has a say in what good parts come to, which a dozen held out
    cannot tell (docs/speed.md). Detection has learnt from most of them, as backgrounds of painted defects; that is not
    undone. With "held-out" the Gaussians are of photos trained on, and only those held out tell what they come to.

    photos: how many have a say, at most about; 0 for PHOTOS. places: those that tell, each as (parts, number in them);
    folders: how many whole folders these are, 0 where each photo stands for itself; independent: their partition into
    independent groups with `threshold.folds` = "runs" (folds.py); told: what they have told, photos in the same order.
    """

    def __init__(
        self,
        model: DSR,
        trained: GoodParts,
        held_out: GoodParts,
        recipe: Recipe,
        device: torch.device,
        photos: int = 0,
    ) -> None:
        self.model, self.trained, self.held_out = model, trained, held_out
        self.recipe, self.device = recipe, device
        self._turned = recipe.model.turned_patches == "always"  # whether turned patches are remembered
        self.kinds = (MAP, *_of(model).sources)
        cross = recipe.threshold.calibration == "cross-fitted"
        told = [(held_out, index) for index in range(len(held_out))]
        most = photos or PHOTOS
        room = max(most - len(told), 1) if cross else most
        numbers: Sequence[int] = range(0, len(trained), -(-len(trained) // room))
        if photos:  # as many as there may be, so that what is not told of need not be remembered
            numbers = (
                [turn * len(trained) // room for turn in range(room)] if room < len(trained) else range(len(trained))
            )
        learnt = [(trained, index) for index in numbers]
        self.places = [*learnt, *told] if cross else told
        self._memory = recipe.model.memory if {*PRETRAINED} & {*self.kinds} else 0
        known = {*self.places}
        more = evenly([(trained, index) for index in range(len(trained))], REMEMBERED_PHOTOS) if self._memory else []
        more = [] if cross and photos else more
        every = [*self.places, *(place for place in more if place not in known)] if cross else self.places
        whole = in_whole_folders(trained.paths, held_out.paths)
        if not len(held_out):  # few photos: none is held out, and folders are left out together as they would be
            apart = len({path.parent for path in trained.paths})
            whole = recipe.threshold.held_out_by != "photo" and apart >= FOLDERS
        self.folders = len({parts.paths[index].parent for parts, index in self.places}) if whole else 0
        self._looks = Looks(model, device)
        self.independent: Partition | None = None
        self._runs: list[tuple[Place, int]] = []  # whose folds for the threshold are not those of the fit
        units = [parts.paths[index] for parts, index in every]
        units = [path.parent for path in units] if self.folders > 1 else units
        group_of = grouped([str(unit) for unit in units], FOLDS if cross else len(units), recipe.run.seed)
        if recipe.threshold.folds == "runs":
            found = partition(every, len(self.places), self.folders > 1, self._looks, recipe.run.seed)
            if cross and found.by != "folder" and found.count < len(every):
                self._runs = [*zip(every, found.folds.tolist(), strict=True)]
            self.independent = found.of_first(len(self.places))
            group_of = group_of if cross else found.groups
        groups = group_of[: len(self.places)]
        self._fitted = [*zip(self.places, groups.tolist(), strict=True)] if cross else [(place, -1) for place in learnt]
        self._remembered = [*zip(every, group_of.tolist(), strict=True)] if cross else [(place, -1) for place in more]
        size = len(self.places), len(self.kinds)
        self.told = GoodEvidence(self.kinds, {}, groups, np.full(size, -math.inf), np.zeros(size[0]), np.zeros(size[1]))

    @torch.no_grad()
    def fit(self) -> dict[str, float]:
        """Fit and set `model.familiarity`, and leave out of it what does not serve. In place.

        Returns the AUROC of each kind of evidence, as `keep_useful` does.
        """
        add_moments(self.told, self._fitted, self._looks)
        if self._memory:
            remember(self.told, self.told, self._remembered, self._memory, self._looks, self._turned)
        usual = measure(self.told, list(enumerate(self.places)), self._looks)
        self.told.usual[:] = [math.sqrt(max(float(moments.covariance()), 0.0)) for moments in usual]
        self.leave_out(NONE)
        found_by = self.keep_useful()
        if self.model.familiarity is not None:
            self.told = self.told.only((MAP, *self.model.familiarity.sources))
            if found_by:
                self.told.trust[:] = self._weights(found_by, self.told.kinds)
            self.leave_out(NONE)
        return found_by

    def leave_out(self, group: int) -> None:
        """Set `model.familiarity` as all photos tell but those of `group`, NONE for all. In place.

        A photo's own evidence must not set what it is held against: its score would come out too small, and a threshold
        or p-value told from such scores would promise too much (tests/train/test_held_out.py).
        """
        self.told.wear(_of(self.model), group)
        round_weights(_of(self.model))

    @torch.no_grad()
    def scores(self) -> tuple[list[float], list[float]]:
        """(score, largest value of the map) of each of `places`, as of a photo that nothing was set by."""
        scores: list[float] = []
        runs = self._without_runs() if self._runs else None
        for number, (place, group) in enumerate(zip(self.places, self.told.groups.tolist(), strict=True)):
            self.leave_out(group)
            if runs is not None:
                runs.wear_gaussians(_of(self.model), self._runs[number][1])
                round_weights(_of(self.model))
            score, self.told.peaks[number] = self._looks.score(place)
            scores.append(score)
        self.leave_out(NONE)
        self._looks = Looks(self.model, self.device)  # what was kept is not needed any more
        return scores, self.told.peaks.tolist()

    def _without_runs(self) -> GoodEvidence:
        """Gaussians and memory banks by the folds of the threshold; calibrated as in the fit."""
        count = len(self.places)
        found = GoodEvidence(
            self.told.kinds, {}, np.array([fold for _, fold in self._runs[:count]]), self.told.largest,
            self.told.peaks, self.told.usual, self.told.trust,
        )  # fmt: skip
        add_moments(found, self._runs[:count], self._looks)
        if self._memory and {*PRETRAINED} & {*self.told.kinds}:
            remember(found, found, self._runs, self._memory, self._looks, self._turned)
        return found

    @torch.no_grad()
    def scores_of(self, parts: GoodParts) -> list[float]:
        """Scores of further photos. Where whole folders are left out together, the rest of a photo's own has no say."""
        group_of: dict[Path, int] = {}
        if self.folders > 1:
            groups = self.told.groups.tolist()
            group_of = {of.paths[index].parent: group for (of, index), group in zip(self.places, groups, strict=True)}
        found = []
        for index, path in enumerate(parts.paths):
            self.leave_out(group_of.get(path.parent, NONE))
            found.append(parts.score(self.model, index, self.device)[0])
        self.leave_out(NONE)
        return found

    @torch.no_grad()
    def keep_useful(self) -> dict[str, float]:
        """Leave out the sources of `model.familiarity` that do not serve, and choose the map that is shown. In place.

        These are sources whose largest evidence varies by more than UNSTEADY from one good photo to the next, and those
        that do not find painted defects with an AUROC of USEFUL; with `model.source_weights` = "cubed" also those whose
        score maps vary by more than UNEVEN from place to place, and never pretrained ones. Returns the AUROC of each
        source, of its largest value on good pictures against the same with painted defects; empty, and all are kept,
        where the recipe paints none or none could be seen.

        The logarithm of a mean squared distance from a Gaussian that describes the features well hardly varies: of D
        independent directions by about (2 / D)^0.5. Where places are of several kinds, one Gaussian for all is wide,
        and an odd place may lie well inside it (docs/results/jury.md).

        The map that is shown is of all evidence where ImageNet's features are among it: detection was trained on
        painted defects, and outlines these far better than real ones (docs/speed.md). Without them, these defects tell.
        """
        familiarity, recipe = _of(self.model), self.recipe
        if recipe.anomalies.place != "image":
            return {}
        settings = recipe.anomalies.model_copy(update={"empty": 0.0})
        generator = seeded(recipe.run.seed, 40)
        tables = rank_tables(self.model.discrete) if settings.ranks == "table" else None
        count = PAINTED // 2 if recipe.model.source_weights == "cubed" else PAINTED
        turns = range(0, len(self.places), -(-len(self.places) // count))
        good: list[list[float]] = []
        painted: list[list[float]] = []
        outlines: list[tuple[Floats, Mask]] = []  # all evidence (kinds, pixels) of some pictures, and what is defective
        for start in range(0, count, recipe.detect.batch):
            numbers = [turns[index % len(turns)] for index in range(start, min(start + recipe.detect.batch, count))]
            parts = [next(photos.pictures(index, 1)) for photos, index in (self.places[number] for number in numbers)]
            if start < len(turns):
                good += [self._largest_of(number, *part) for number, part in zip(numbers, parts, strict=True)]
            pictures = torch.cat([picture for picture, _ in parts])
            images, masks = self._painted(pictures, settings, generator, tables)
            for image, mask, (_, inside), number in zip(images, masks.numpy(), parts, numbers, strict=True):
                if inside is not None:
                    inside = inside[:: self.model.reduction, :: self.model.reduction]
                if (mask if inside is None else mask & inside).sum() >= SEEN:
                    self.leave_out(int(self.told.groups[number]))
                    examined = self.model.examine(_laid_out(image[None], self.device))
                    found = _evidence(self.model, examined, inside)
                    painted.append([_largest(values, cells) for values, cells in found])
                    above = torch.stack(familiarity.above(examined.logits, examined.features))[:, 0, ::2, ::2]
                    where = np.ones_like(mask[::2, ::2]) if inside is None else inside[::2, ::2]
                    outlines.append((above.cpu().numpy()[:, where], mask[::2, ::2][where]))
        if not painted:
            return {}
        defective = np.repeat([False, True], [len(good), len(painted)])
        largest = np.array([*good, *painted])  # (pictures, kinds of evidence)
        found_by = {name: image_auroc(defective, values) for name, values in zip(self.kinds, largest.T, strict=True)}
        steady = dict(zip(self.kinds, self.told.largest.std(axis=0) <= UNSTEADY, strict=True))
        always: tuple[str, ...] = ()
        if recipe.model.source_weights == "cubed":
            always = PRETRAINED
            even = dict(zip(self.kinds, self.told.usual <= UNEVEN, strict=True))
            steady = {name: steady[name] and even[name] for name in self.kinds}
        kept = [name for name in familiarity.sources if name in always or (steady[name] and found_by[name] >= USEFUL)]
        self.model.keep(kept)
        if kept:
            chosen = [self.kinds.index(name) for name in (MAP, *kept)]
            counts = self._weights(found_by, (MAP, *kept))
            own = min(float(counts[0]), IN_MAP / float(counts[0])) if recipe.model.source_weights == "cubed" else 1.0
            in_map = np.append(own, np.ones(len(kept))) * counts
            together = bool({*PRETRAINED} & {*kept}) or _together_outlines_better(outlines, chosen, in_map)
            familiarity.share(together, own)
        else:
            self.model.familiarity = None
        return found_by

    def _painted(
        self, pictures: Tensor, settings: AnomalySettings, generator: torch.Generator, tables: RankTables | None
    ) -> tuple[Tensor, Tensor]:
        """Pictures (B, 3, H, W) with painted defects, and their masks (B, h, w) on the CPU, at the size that detection
        sees. What high resolution shows beside a defect stays as it is."""
        reduced = self.model.reduced(pictures)
        sample = with_defects(self.model, reduced, settings, generator, self.device, tables)
        images = sample.image.cpu()
        if self.model.reduction > 1:
            change = nn.functional.interpolate(images - reduced, size=pictures.shape[-2:], mode="bilinear")
            images = (pictures + change).clamp(0, 1)
        return images, sample.mask.cpu()

    def _weights(self, found_by: Mapping[str, float], kinds: Sequence[str]) -> Floats64:
        """How much each kind counts in the score, (kinds,), by `model.source_weights`."""
        counts = trust([found_by[name] for name in kinds])
        if self.recipe.model.source_weights == "selected":
            return counts
        weights: Floats64 = np.maximum((counts / counts.max()) ** 3, LEAST)
        return weights

    def _largest_of(self, number: int, picture: Tensor, inside: Mask | None) -> list[float]:
        """The largest of each evidence in a picture (1, 3, H, W) of photo `number`."""
        if self.places[number][0].whole is not None:
            return [float(value) for value in self.told.largest[number]]  # the picture is all of the photo
        self.told.wear_gaussians(_of(self.model), int(self.told.groups[number]))
        round_weights(_of(self.model))
        examined = self.model.examine(_laid_out(picture, self.device))
        return [_largest(found, cells) for found, cells in _evidence(self.model, examined, inside)]


def partition(photos: Sequence[Place], calibration: int, whole_folders: bool, looks: Looks, seed: int) -> Partition:
    """Partition photos into independent groups and FOLDS folds; the first `calibration` of them are looked at later."""
    paths = [parts.paths[index] for parts, index in photos]
    if whole_folders:
        return by_folder(paths, FOLDS, seed)
    times = [taken_at(path) for path in paths]
    return by_runs(paths, grids(photos, calibration, looks), FOLDS, seed, times if all(times) else None)


@torch.no_grad()
def grids(photos: Sequence[Place], calibration: int, looks: Looks) -> Tensor:
    """Pool the features of each photo into a coarse grid, (P, C, GRID, GRID), in which siblings are found.

    ImageNet's features where the model has them, else those of its first source; 0 outside the region of interest. All
    features of the first `calibration` photos are kept in `looks`.
    """
    names = [name for name, _ in _of(looks.model).named_densities()]
    found = []
    for number, place in enumerate(photos):
        cells = []
        if known := [name for name in PRETRAINED if name in names]:
            if number < calibration and place[0].whole is not None:
                next(looks.at(place))
            for features, mask in looks.pretrained(place, TILES):
                inner, inside = within_border(features[known[0]]), _cells(mask, features[known[0]])
                cells.append(inner if inside is None else inner * within_border(inside))
        else:
            for seen, mask in looks.at(place, TILES):
                inner, inside = within_border(seen.features[names[0]]), _cells(mask, seen.features[names[0]])
                cells.append(inner if inside is None else inner * within_border(inside))
        pooled = [nn.functional.adaptive_avg_pool2d(each.float(), GRID)[0] for each in cells]
        found.append(torch.stack(pooled).mean(0).cpu())
    return torch.stack(found)


def add_moments(told: GoodEvidence, photos: Sequence[tuple[Place, int]], looks: Looks) -> None:
    """Add the moments of the features of photos, each with its group, to `told`."""
    familiarity = _of(looks.model)
    channels = {name: len(density.mean) for name, density in familiarity.named_densities()}
    for place, group in photos:
        sums = told.moments.setdefault(group, {name: Moments(count) for name, count in channels.items()})
        for (_, features), inside in looks.at(place, TILES):
            for name, found in sums.items():
                cells, inner = _cells(inside, features[name]), within_border(features[name]).float()
                if cells is not None:
                    around = familiarity.around.get(name, 1)
                    pooled = name in PRETRAINED
                    cells = _surrounding(cells, features[name], around) if pooled else within_border(cells)
                found.add(inner, cells)


def remember(
    told: GoodEvidence,
    known: GoodEvidence,
    photos: Sequence[tuple[Place, int]],
    count: int,
    looks: Looks,
    turned: bool = False,
) -> None:
    """Add to the memory banks of `told` about `count` patches of photos, each with its group: as unlike as possible
    within a group (coreset).

    How unlike they are is measured by the Gaussian of all that is `known`, in DIRECTIONS at random. `turned`: patches
    of turned copies of up to about TURNED_PHOTOS of the photos are among these, in their group.
    """
    copied = {place for place, _ in evenly(photos, TURNED_PHOTOS)} if turned else set()
    banks = {name: Candidates(name, known, looks) for name in _of(looks.model).sources if name in PRETRAINED}
    groups: dict[int, list[Place]] = {}
    for place, group in photos:
        groups.setdefault(group, []).append(place)
    for group, places in groups.items():
        pictures = len(places) + len(QUARTERS) * len(copied.intersection(places))
        room = CELLS // pictures // (1 if places[0][0].whole is not None else TILES)  # of each picture
        for place in places:
            turned_copies = looks.turned(place, TILES) if place in copied else ()
            for features, inside in itertools.chain(looks.pretrained(place, TILES), turned_copies):
                for name, bank in banks.items():
                    bank.add(patches_of(features[name], inside, bank.around), room)
        for name, bank in banks.items():
            chosen = bank.choose(math.ceil(count * len(places) / len(photos)))
            told.patches.setdefault(name, {})[group] = chosen
    told.remembered += len(photos)


class Candidates:
    """Candidates for the memory bank of a source, of one group of photos."""

    def __init__(self, name: str, known: GoodEvidence, looks: Looks) -> None:
        self.around = _of(looks.model).around[name]
        usual = Moments.of([sums[name] for sums in known.moments.values()])
        channels = len(usual.total)
        self.density = Density(channels, _of(looks.model).components_of(name)).to(looks.device)
        self.density.fit(usual.mean(), usual.covariance())
        kept = self.density.components
        drawn = torch.randn(kept, min(DIRECTIONS, kept), generator=seeded(0, 42))
        self.directions = torch.linalg.qr(drawn)[0].to(looks.device)
        self.points: list[Tensor] = []
        self.cells: list[Tensor] = []  # in half precision, as they are stored: there may be hundreds of thousands

    def add(self, patches: Tensor, room: int) -> None:
        """Up to about `room` of a picture's patches (N, C)."""
        found = patches[:: max(-(-len(patches) // max(room, 1)), 1)]
        self.points.append(self.projected(found))
        self.cells.append(found.half().cpu())

    def projected(self, patches: Tensor) -> Tensor:
        """Patches (N, C) in the few directions (N, D) in which they are compared."""
        points: Tensor = self.density.white(patches) @ self.directions
        return points

    def choose(self, count: int) -> Tensor:
        """`count` of the cells (count, C), as unlike as possible; the candidates are then forgotten."""
        chosen = core_set(torch.cat(self.points), count)
        cells = torch.cat(self.cells)[chosen.cpu()].float()
        self.points, self.cells = [], []
        return cells


def patches_of(features: Tensor, inside: Mask | None, around: int) -> Tensor:
    """Patches (N, C) of features (1, C, h, w), each a mean over `around` by `around` cells: those that evidence of the
    pixels `inside` (H, W) is told from, None for all pixels."""
    means = surroundings(features, around)
    counting = _cells(inside, features)
    if counting is None:
        return means[0].flatten(1).t()
    return means[0][:, _told_by(counting, means.shape[-2:])].t()


def evenly(places: Sequence[Chosen], count: int) -> Sequence[Chosen]:
    """Up to `count` of them, from first to last."""
    return places[:: max(-(-len(places) // count), 1)]


def measure(told: GoodEvidence, photos: Sequence[tuple[int, Place]], looks: Looks) -> list[Moments]:
    """Put the largest of each kind of evidence on photos, each with its number in `told`, there.

    By the Gaussians of the other groups; the map's is that of a mean over the square that scores are taken over.
    Returns the moments of each kind of evidence from place to place.
    """
    usual = [Moments(1) for _ in told.kinds]
    for number, place in photos:
        told.wear_gaussians(_of(looks.model), int(told.groups[number]))
        round_weights(_of(looks.model))
        for seen, inside in looks.at(place):
            for kind, (found, cells) in enumerate(_evidence(looks.model, seen, inside)):
                usual[kind].add(found, cells)
                told.largest[number, kind] = max(told.largest[number, kind], _largest(found, cells))
    return usual


def trust(aurocs: Sequence[float]) -> Floats64:
    """How much each kind of evidence counts, (kinds,), by its AUROC on painted defects: the best 1, chance LEAST.

    In proportion to what they are above chance. All alike where none is.
    """
    above = np.clip(np.array(aurocs) - 0.5, 0, None)
    best = above.max()
    return np.maximum(above / best, LEAST) if best > 0 else np.ones(len(above))


def _together_outlines_better(outlines: Sequence[tuple[Floats, Mask]], kinds: Sequence[int], counts: Floats64) -> bool:
    """Whether the evidence of all `kinds` outlines painted defects better than that of the first, detection's, alone.

    As much as each `counts`; by pixel AP. Detection was trained on such defects: its own must be larger by ADVANTAGE.
    """
    truth = np.concatenate([mask for _, mask in outlines])
    alone = np.concatenate([above[kinds[0]] for above, _ in outlines])
    together = np.concatenate([counts @ above[list(kinds)] for above, _ in outlines])
    return ADVANTAGE * image_ap(truth, together) > image_ap(truth, alone)


def in_whole_folders(trained: Sequence[Path], held_out: Sequence[Path]) -> bool:
    """Whether whole folders were held out, so that each stands for a part, a day or a batch."""
    learnt = {path.parent for path in trained}
    return bool(held_out) and not any(path.parent in learnt for path in held_out)


def _evidence(model: DSR, seen: Look | Examined, inside: Mask | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Each evidence (1, 1, h, w) of `model.familiarity` in what is seen of a picture, and the cells of it that count.

    The map's is a mean over the square that scores are taken over.
    """
    side = model.map_side
    for number, found in enumerate(_of(model).evidence(seen.logits, seen.features)):
        if number == 0:
            found = nn.functional.avg_pool2d(found, side, 1, side // 2, count_include_pad=False)
        yield found, _cells(inside, found)


def _largest(found: Tensor, cells: Tensor | None) -> float:
    """Largest value of evidence (1, 1, h, w) in the `cells` (h, w) that count."""
    return float((found if cells is None else found[:, :, cells]).max())


def _of(model: DSR) -> Familiarity:
    assert model.familiarity is not None, "the model has something to fit"
    return model.familiarity


def _laid_out(pictures: Tensor, device: torch.device) -> Tensor:
    return pictures.to(device, memory_format=torch.channels_last)


def _surrounding(cells: Tensor, features: Tensor, around: int) -> Tensor:
    """Of the cells of `within_border` of `features` (1, C, h, w), those whose mean is evidence of `cells` (h, w)."""
    size = surroundings(features[:, :1], around).shape[-2:]
    side = within_border(features).shape[-1] - size[-1] + 1
    told = nn.functional.pad(_told_by(cells, size)[None, None].float(), (side - 1,) * 4)
    return nn.functional.max_pool2d(told, side, 1)[0, 0] > 0


def _told_by(cells: Tensor, size: Sequence[int]) -> Tensor:
    """Of the cells (h', w') of `size` that surroundings are told for, those that evidence of `cells` (h, w) is made of.

    The outermost ones of (h, w) take it from the nearest that there are, and it is interpolated between neighbours.
    """
    told = torch.zeros(tuple(size), dtype=torch.bool, device=cells.device)
    rows, columns = cells.nonzero().unbind(1)
    cut = [(outer - inner) // 2 for outer, inner in zip(cells.shape, size, strict=True)]
    told[(rows - cut[0]).clamp(0, size[0] - 1), (columns - cut[1]).clamp(0, size[1] - 1)] = True
    return nn.functional.max_pool2d(told[None, None].float(), 3, 1, 1)[0, 0] > 0


def _cells(inside: Mask | None, features: Tensor) -> Tensor | None:
    """Cells (h, w) bool of `features` (B, C, h, w) that hold a pixel `inside` (H, W); None: all."""
    if inside is None:
        return None
    return torch.from_numpy(at_cells(inside, *features.shape[-2:])).to(features.device)
