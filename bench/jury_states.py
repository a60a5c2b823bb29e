"""The jury's result files as states (a recipe, with a tag), and the arithmetic over their sets and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from common import processor
from jury_figures import GROUPS, MASKED, NETWORK, SEEDS, SETS, drawn_sets

Result = dict[str, Any]
Figure = Callable[[Result], float | None]
TILE = "magnetic_tile"
NEAR = 200  # numbers of Magnetic Tile within which photos may be of one tile: the figure that counts in the mean
FACTS = ("commit", "machine", "trained_by", "seed", "image", "good", "defective")  # of a run, whatever is measured
FLOOR = 0.01  # of image AUROC that no set may lose
LIKELY, CERTAIN = 0.15, 0.95  # the share of good parts, and the point of its binomial, that the rejected stay under


class Mean(NamedTuple):
    """A mean, the smallest and the largest value over seeds, how many went into it, and how many should have."""

    value: float
    low: float
    high: float
    measured: int
    wanted: int


def metric(name: str) -> Figure:
    """A metric of an evaluation; None where it cannot be measured."""

    def figure(result: Result) -> float | None:
        found = result["metrics"].get(name)
        return None if found is None else found["value"]

    return figure


def at_overkill(percent: int, name: str) -> Figure:
    """`escape` or `overkill` at the threshold for so many per cent of overkill."""
    return lambda result: result.get("at_overkill", {}).get(str(percent), {}).get(name)


def fact(name: str) -> Figure:
    """A number that a result holds beside its metrics."""
    return lambda result: result.get(name)


AUROC, PIXEL_AP = metric("image_auroc"), metric("pixel_ap")


class State:
    """All runs of one recipe and tag, by set and seed.

    What is measured without the photos of the same tile stands beside Magnetic Tile as a set of its own.
    """

    def __init__(self, recipe: str, tag: str, results: Iterable[Result]) -> None:
        self.recipe, self.name = recipe, name_of(recipe, tag)
        self.runs: dict[str, dict[int, Result]] = {}
        for result in results:
            self.runs.setdefault(result["set"], {})[result["seed"]] = result
            for near, metrics in result.get("without_near_duplicates", {}).items():
                apart = {name: result[name] for name in FACTS} | {"metrics": metrics}
                apart["protocol"] = result.get("protocol", NETWORK)
                self.runs.setdefault(strict(near), {})[result["seed"]] = apart

    def sets(self) -> list[str]:
        """The six, those beside Magnetic Tile, drawn surfaces, and what else was measured."""
        apart = sorted((name for name in self.runs if name.startswith(TILE + " ")), key=lambda name: (len(name), name))
        return list(dict.fromkeys([*SETS, *apart, *drawn_sets(), *sorted(self.runs)]))

    def values(self, name: str, figure: Figure, seeds: Iterable[int] | None = None) -> list[float]:
        """The figure of a set for each seed that has it, or of these `seeds` alone."""
        runs = self.runs.get(name, {})
        wanted = sorted(runs) if seeds is None else [seed for seed in seeds if seed in runs]
        found = (figure(runs[seed]) for seed in wanted)
        return [value for value in found if value is not None]

    def over_seeds(self, name: str, figure: Figure) -> Mean | None:
        """The figure of a set over seeds; None where there is none."""
        found = self.values(name, figure)
        return Mean(fmean(found), min(found), max(found), len(found), len(SEEDS)) if found else None

    def over_sets(self, names: Sequence[str], figure: Figure) -> Mean | None:
        """The mean of sets, each with equal weight; smallest and largest are those of the seeds that all of them have.

        Of the sets that have the figure; `measured` says how many.
        """
        means = {name: found.value for name in names if (found := self.over_seeds(name, figure))}
        if not means:
            return None
        value = fmean(means.values())
        seeds = self._common(means, figure)
        by_seed = [fmean(self.values(name, figure, [seed])[0] for name in means) for seed in seeds]
        return Mean(value, min(by_seed, default=value), max(by_seed, default=value), len(means), len(names))

    def _common(self, names: Iterable[str], figure: Figure) -> list[int]:
        seeds = {seed for name in names for seed in self.runs[name]}
        return [seed for seed in sorted(seeds) if all(self.values(name, figure, [seed]) for name in names)]

    def has_strict(self) -> bool:
        """Whether each run of Magnetic Tile was measured without the photos of the same tile too."""
        runs, apart = self.runs.get(TILE, {}), self.runs.get(strict(NEAR), {})
        return bool(runs) and set(runs) == set(apart)

    def protocols(self, name: str | None = None) -> set[str]:
        """Protocols by which the pixel metrics of its runs, or of those of one set, were measured."""
        chosen = self.runs.values() if name is None else [self.runs.get(name, {})]
        return {result.get("protocol", NETWORK) for runs in chosen for result in runs.values()}

    def said(self, name: str) -> str:
        """What its runs say of themselves under `name`: each value once."""
        found = (str(result[name]) for runs in self.runs.values() for result in runs.values())
        return ", ".join(dict.fromkeys(found))


def strict(near: int | str) -> str:
    """What Magnetic Tile is called without training photos within so many numbers of the test photo."""
    return f"{TILE} without photos within {near}"


def states(results: Iterable[Result]) -> dict[str, State]:
    """The states by name, RECIPE or RECIPE-TAG, in the order of their names."""
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        found.setdefault((result["recipe"], result["tag"]), []).append(result)
    made = (State(*key, runs) for key, runs in found.items())
    return {state.name: state for state in sorted(made, key=lambda state: state.name)}


def name_of(recipe: str, tag: str) -> str:
    """What a state is called."""
    return f"{recipe}-{tag}" if tag else recipe


def judged(names: Sequence[str], by_tile: bool) -> list[str]:
    """The sets of a mean; `by_tile`: Magnetic Tile as it is without the photos of the same tile."""
    return [strict(NEAR) if by_tile and name == TILE else name for name in names]


# --- what a threshold promises --------------------------------------------------------------------------------------


def rejection_limit(good: int) -> int:
    """The 95 % point of Binomial(good, 0.15), which the number of rejected good parts must stay under."""
    from scipy.stats import binom

    return int(binom.ppf(CERTAIN, good, LIKELY))


def refused(result: Result) -> bool:
    """Whether the threshold promises nothing because too few independent groups of good photos set it."""
    threshold, groups = result.get("threshold"), result.get("groups")
    return threshold is not None and not threshold["supported"] and groups is not None and groups < GROUPS


def promise(state: State, name: str) -> str:
    """Whether the promise about overkill was kept on a set, by each seed: yes, no or refused; empty if not measured."""
    runs = [run for run in state.runs.get(name, {}).values() if run.get("rejected_good") is not None]
    if not runs:
        return ""
    if any(refused(run) for run in runs):
        return "refused"
    return "yes" if all(run["rejected_good"] < rejection_limit(run["good"]) for run in runs) else "no"


# --- one state against another, and the choice among several ---------------------------------------------------------


class Comparison(NamedTuple):
    """Differences of `new` from `old` by set, over the seeds that both have: {set: (image AUROC, pixel AP or None)}.

    by_tile: whether the mean takes Magnetic Tile without the photos of the same tile; missing: sets of the six and
    drawn surfaces that have no seed in common; seeds: of how many seeds each of the six is at least
    """

    old: State
    new: State
    differences: dict[str, tuple[float, float | None]]
    by_tile: bool
    missing: list[str]
    seeds: int

    def mean(self, index: int) -> float | None:
        """Mean difference of image AUROC (0) or of pixel AP (1) over the jury's sets; None where one is missing."""
        names = judged(SETS if index == 0 else MASKED, self.by_tile)
        found = [self.differences[name][index] for name in names if name in self.differences]
        values = [value for value in found if value is not None]
        return fmean(values) if len(values) == len(names) else None

    def worst(self) -> tuple[str, float] | None:
        """The row that loses most image AUROC, those outside the mean too, and what it gains or loses."""
        found = {name: both[0] for name, both in self.differences.items()}
        name = min(found, key=lambda name: found[name], default="")
        return (name, found[name]) if found else None

    def verdict(self) -> str:
        """kept or not kept; or open, and why, while runs are missing."""
        auroc, pixel_ap, worst = self.mean(0), self.mean(1), self.worst()
        lacking = [name for name in self.missing if name in SETS]
        if auroc is None or worst is None:
            return f"open: no common run on {', '.join(lacking)}" if lacking else "open: no common figures"
        gain = round(auroc, 3)
        helps = gain > 0 or (gain == 0 and pixel_ap is not None and round(pixel_ap, 3) > 0)
        kept = "kept" if helps and worst[1] >= -FLOOR - 1e-9 else "not kept"
        if self.seeds < len(SEEDS):
            return f"open, {self.seeds} of {len(SEEDS)} seeds; by these alone {kept}"
        return kept + (f", but not measured on {', '.join(self.missing)}" if self.missing else "")

    def one_processor(self) -> bool:
        """Whether both were measured on one kind of processor."""
        runs = [run for state in (self.old, self.new) for seeds in state.runs.values() for run in seeds.values()]
        return len({processor(run) for run in runs}) < 2


def compare(old: State, new: State) -> Comparison:
    """How `new` differs from `old` on each row that both have; in pixel AP only where both have one protocol."""
    differences: dict[str, tuple[float, float | None]] = {}
    fewest = len(SEEDS)
    for name in dict.fromkeys([*old.sets(), *new.sets()]):
        seeds = sorted(set(old.runs.get(name, {})) & set(new.runs.get(name, {})))
        auroc = _difference(old, new, name, AUROC, seeds)
        if auroc is not None:
            alike = len(old.protocols(name) | new.protocols(name)) == 1
            pixel_ap = _difference(old, new, name, PIXEL_AP, seeds) if alike else None
            differences[name] = (auroc, pixel_ap)
        if name in SETS:
            fewest = min(fewest, len(seeds))
    missing = [name for name in (*SETS, *drawn_sets()) if name not in differences]
    return Comparison(old, new, differences, old.has_strict() and new.has_strict(), missing, fewest)


def _difference(old: State, new: State, name: str, figure: Figure, seeds: Sequence[int]) -> float | None:
    before, after = old.values(name, figure, seeds), new.values(name, figure, seeds)
    return fmean(after) - fmean(before) if before and len(before) == len(after) else None


class Choice(NamedTuple):
    """What the mean over the other sets chooses among candidates, and its figures on the set left out."""

    left_out: str
    chosen: str
    others: float
    auroc: float
    pixel_ap: float | None
    best: str
    best_auroc: float


class Choices(NamedTuple):
    """Leave-one-set-out: a choice for each set, that of all sets, the seeds counted, and candidates that lack sets."""

    by_set: list[Choice]
    overall: str
    seeds: list[int]
    by_tile: bool
    lacking: dict[str, list[str]]


def leave_one_set_out(candidates: Sequence[State]) -> Choices:
    """For each of the six sets, the candidate with the best mean image AUROC over the other five, measured on it.

    Over the seeds that all candidates have on all sets. A candidate that lacks a set is not chosen from.
    """
    lacking = {state.name: [name for name in SETS if name not in state.runs] for state in candidates}
    whole = [state for state in candidates if not lacking[state.name]]
    by_tile = bool(whole) and all(state.has_strict() for state in whole)
    names = judged(SETS, by_tile)
    seeds = set.intersection(*(set(state.runs[name]) for state in whole for name in names)) if whole else set()
    lacking = {name: sets for name, sets in lacking.items() if sets}
    if len(whole) < 2 or not seeds:
        return Choices([], "", [], by_tile, lacking)
    figures = {state.name: {name: fmean(state.values(name, AUROC, seeds)) for name in names} for state in whole}
    outlines = {state.name: {name: state.values(name, PIXEL_AP, seeds) for name in names} for state in whole}
    found = []
    for left_out in names:
        means = {
            name: fmean(value for part, value in by_set.items() if part != left_out) for name, by_set in figures.items()
        }
        chosen = max(means, key=lambda name: means[name])
        best = max(figures, key=lambda name: figures[name][left_out])
        outline = outlines[chosen][left_out]
        found.append(
            Choice(
                left_out, chosen, means[chosen], figures[chosen][left_out], fmean(outline) if outline else None,
                best, figures[best][left_out],
            )
        )  # fmt: skip
    overall = max(figures, key=lambda name: fmean(figures[name].values()))
    return Choices(found, overall, sorted(seeds), by_tile, lacking)
