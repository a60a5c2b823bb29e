"""The jury's table as Markdown: a block for each state, comparisons, and the choice with one set left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

from jury_figures import GROUPS, MASKED, OVERKILLS, SEEDS, SETS
from jury_states import (
    AUROC,
    FLOOR,
    NEAR,
    PIXEL_AP,
    TILE,
    Choices,
    Comparison,
    Figure,
    Mean,
    State,
    at_overkill,
    compare,
    fact,
    judged,
    leave_one_set_out,
    metric,
    promise,
    rejection_limit,
)

QUALITY = {"image AUROC": AUROC, "pixel AP": PIXEL_AP, "AUPRO": metric("aupro"), "SegF1": metric("seg_f1")}
OUTLINED = ("pixel AP", "AUPRO", "SegF1")  # where masks are needed
MISSING, NONE = "missing", "–"
BEGIN, END = "<!-- generated: {} -->", "<!-- end: {} -->"


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table as lines."""
    return [line(cells) for cells in (head, ["---"] * len(head), *body)]


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def three(mean: Mean | None) -> str:
    """A mean over seeds with its range; how many sets it is of where some are missing."""
    if mean is None:
        return NONE
    extent = f" [{mean.low:.3f}, {mean.high:.3f}]" if mean.high > mean.low else ""
    return f"{mean.value:.3f}{extent}"


def percent(mean: Mean | None) -> str:
    """A share as per cent."""
    return NONE if mean is None else f"{100 * mean.value:.1f} %"


def seeds_of(state: State, name: str) -> str:
    """The seeds that a set was run with, and which are missing."""
    there = sorted(state.runs.get(name, {}))
    missing = [str(seed) for seed in SEEDS if seed not in there]
    return ", ".join(map(str, there)) + (f"; {', '.join(missing)} {MISSING}" if missing else "")


def block(state: State) -> list[str]:
    """What one state measures: quality, then what its thresholds do."""
    said = [f"Commit {state.said('commit')}. {state.said('machine')}. {state.said('trained_by')}."]
    said.append(f"Pixel metrics by protocol {', '.join(sorted(state.protocols()))} (docs/benchmark.md).")
    strict = [True] if state.has_strict() else []
    quality = _table(state, ["network", *QUALITY, "minutes", "MB", "seeds"], _quality)
    quality += [line(_mean_quality(state, by_tile)) for by_tile in [*strict, False]]
    names = [f"escape / overkill at {share} %" for share in OVERKILLS]
    head = ["escape / overkill at the threshold", *names, "good parts rejected", "promise kept"]
    limits = _table(state, head, _limits)
    shares = _shares(lambda figure: state.over_sets(SETS, figure))
    measured = f"{sum(name in state.runs for name in SETS)} of {len(SETS)} sets"
    limits.append(line(["**mean of six**", *shares, measured, _kept(state)]))
    return [f"### {state.name}", "", *said, "", *quality, "", *limits]


def _table(state: State, head: Sequence[str], cells: Callable[[State, str], list[str]]) -> list[str]:
    """A row for each set; drawn surfaces without any run share one."""
    body = []
    for (there, real), group in groupby(state.sets(), key=lambda name: (name in state.runs, name in SETS)):
        names = list(group)
        if there:
            body += [[name, *cells(state, name)] for name in names]
        else:
            blank = [MISSING, *[""] * (len(head) - 1)]
            body += [[name, *blank] for name in (names if real else [", ".join(names)])]
    return rows(["set", *head], body)


def _quality(state: State, name: str) -> list[str]:
    runs = state.runs[name].values()
    sizes = dict.fromkeys(f"{run['image']['height']} × {run['image']['width']}" for run in runs)
    minutes = state.over_seeds(name, fact("minutes"))
    least = "at least " if any(run.get("minutes_at_least") for run in runs) else ""
    memory = state.over_seeds(name, fact("peak_memory_mb"))
    return [
        ", ".join(sizes),
        *(three(state.over_seeds(name, figure)) for figure in QUALITY.values()),
        f"{least}{minutes.value:.1f}" if minutes else NONE,
        f"{memory.high:.0f}" if memory else NONE,
        seeds_of(state, name),
    ]


def _mean_quality(state: State, by_tile: bool) -> list[str]:
    cells = [f"**mean of six**, {TILE} without photos within {NEAR}" if by_tile else "**mean of six**", ""]
    for title, figure in QUALITY.items():
        found = state.over_sets(judged(MASKED if title in OUTLINED else SETS, by_tile), figure)
        some = f" ({found.measured} of {found.wanted} sets)" if found and found.measured < found.wanted else ""
        cells.append(three(found) + some)
    minutes = state.over_sets(SETS, fact("minutes"))
    memory = [found.high for name in SETS if (found := state.over_seeds(name, fact("peak_memory_mb")))]
    cells += [f"{minutes.value:.1f}" if minutes else NONE, f"{max(memory):.0f}" if memory else NONE]
    return [*cells, f"{sum(len(state.runs.get(name, {})) for name in SETS)} of {len(SETS) * len(SEEDS)} runs"]


def _limits(state: State, name: str) -> list[str]:
    runs = state.runs[name]
    rejected = [runs[seed].get("rejected_good") for seed in sorted(runs)]
    good = next(iter(runs.values()))["good"]
    said = ", ".join(str(count) for count in rejected if count is not None)
    counts = f"{said} of {good} (limit {rejection_limit(good)})" if said else NONE
    return [*_shares(lambda figure: state.over_seeds(name, figure)), counts, promise(state, name) or NONE]


def _shares(mean: Callable[[Figure], Mean | None]) -> list[str]:
    pairs = [(metric("escape"), metric("overkill"))]
    pairs += [(at_overkill(share, "escape"), at_overkill(share, "overkill")) for share in OVERKILLS]
    return [" / ".join(percent(mean(figure)) for figure in pair) for pair in pairs]


def _kept(state: State) -> str:
    found = [promise(state, name) for name in SETS]
    return f"{found.count('yes')} yes, {found.count('no')} no, {found.count('refused')} refused"


def comparison(found: Comparison) -> list[str]:
    """One state against another: differences by row, and whether the change is kept."""
    old, new = found.old, found.new
    body = []
    for name in [*SETS, *(name for name in found.differences if name not in SETS)]:
        if name not in found.differences:
            body.append([name, MISSING, *[""] * 5])
            continue
        auroc, pixel_ap = found.differences[name]
        seeds = sorted(set(old.runs[name]) & set(new.runs[name]))
        before, after, *outlines = (_on(state, name, of, seeds) for of in (AUROC, PIXEL_AP) for state in (old, new))
        how = ["", ""] if pixel_ap is None else [" → ".join(outlines), signed(pixel_ap)]
        body.append([name, before, after, signed(auroc), *how, ", ".join(map(str, seeds))])
    tile = f", {TILE} without photos within {NEAR}" if found.by_tile else ""
    body.append([f"**mean of six**{tile}", "", "", signed(found.mean(0)), "", signed(found.mean(1)), ""])
    head = ["set", f"image AUROC, {old.name}", new.name, "difference", "pixel AP", "difference", "seeds"]
    worst = found.worst()
    lines = [f"### {new.name} against {old.name}: {found.verdict()}", "", *rows(head, body), ""]
    if worst is not None:
        lines.append(f"Least favourable row: {worst[0]}, {signed(worst[1])} image AUROC.")
    earlier, later = _totals(old, found.by_tile), _totals(new, found.by_tile)
    if earlier and later:
        lines.append(
            f"Mean image AUROC closes {100 * (later[0] - earlier[0]) / (1 - earlier[0]):.0f} % of its distance to 1; "
            f"mean pixel AP is {later[1] / earlier[1]:.2f} times as high."
        )
    if not found.one_processor():
        lines.append("**They were not measured on one kind of processor.**")
    return lines


def _on(state: State, name: str, figure: Figure, seeds: Sequence[int]) -> str:
    values = state.values(name, figure, seeds)
    return f"{fmean(values):.3f}" if values else NONE


def _totals(state: State, by_tile: bool) -> tuple[float, float] | None:
    """Mean image AUROC and pixel AP, where no set is missing."""
    auroc, pixel_ap = (state.over_sets(judged(sets, by_tile), of) for sets, of in ((SETS, AUROC), (MASKED, PIXEL_AP)))
    if not auroc or not pixel_ap or auroc.measured < auroc.wanted or pixel_ap.measured < pixel_ap.wanted:
        return None
    return (auroc.value, pixel_ap.value) if auroc.value < 1 and pixel_ap.value > 0 else None


def signed(value: float | None) -> str:
    """A difference with its sign."""
    return MISSING if value is None else f"{value:+.3f}"


def choices(found: Choices) -> list[str]:
    """What would have been chosen without each set, measured on it."""
    lines = ["### Chosen without the set, measured on it", ""]
    lines += [f"Not chosen from: {name}, which lacks {', '.join(sets)}." for name, sets in found.lacking.items()]
    if not found.by_set:
        return [*lines, "", f"{MISSING}: no two candidates with a common seed on all six sets.".capitalize()]
    body = [
        [each.left_out, each.chosen, f"{each.others:.3f}", f"{each.auroc:.3f}",
         NONE if each.pixel_ap is None else f"{each.pixel_ap:.3f}", f"{each.best_auroc:.3f} ({each.best})"]
        for each in found.by_set
    ]  # fmt: skip
    chosen, best = fmean(each.auroc for each in found.by_set), fmean(each.best_auroc for each in found.by_set)
    outlines = [each.pixel_ap for each in found.by_set if each.pixel_ap is not None]
    outline = f"{fmean(outlines):.3f}" if outlines else NONE
    body.append(["**mean of six**", "", "", f"{chosen:.3f}", outline, f"{best:.3f}"])
    head = ["left out", "chosen by the others", "their image AUROC", "image AUROC here", "pixel AP here", "best here"]
    seeds = ", ".join(map(str, found.seeds))
    return [*lines, *rows(head, body), "", f"By all six: {found.overall}. Seeds that all candidates have: {seeds}."]


def report(
    found: dict[str, State], pairs: Sequence[tuple[str, str]], candidates: Sequence[State]
) -> dict[str, list[str]]:
    """The generated parts by name: `states`, `comparisons` (of `pairs`, old and new) and `choices` of `candidates`."""
    compared = [comparison(compare(found[old], found[new])) for old, new in pairs]
    legend = [
        f"Mean over seeds [smallest, largest]. Runs wanted: seeds {', '.join(map(str, SEEDS))} of each set.",
        "A promise is kept where with each seed fewer good test parts are rejected than the limit, the 95 % point of "
        f"Binomial(n, 0.15), and refused where fewer than {GROUPS} independent groups of good photos set a threshold.",
    ]
    rule = (
        "Kept is what raises the mean image AUROC (or, where that stays the same to three decimals, the mean pixel AP) "
        f"and costs no row more than {FLOOR:g} image AUROC. Seeds that both have are counted."
    )
    chosen = choices(leave_one_set_out(candidates)) if len(candidates) > 1 else ["No candidates to choose from yet."]
    blocks = _apart(block(state) for state in found.values())
    return {
        "states": [*legend, *blocks] if found else ["Nothing is measured yet."],
        "comparisons": [rule, *_apart(compared)] if compared else ["Nothing to compare yet."],
        "choices": chosen,
    }


def _apart(parts: Iterable[Sequence[str]]) -> list[str]:
    return [text for part in parts for text in ["", *part]]


def put(path: Path, parts: dict[str, list[str]]) -> None:
    """Put the generated parts between their markers in the Markdown file `path`; what is around them stays.

    A part without markers is added at the end with them. Raises SystemExit where one of the two is missing or twice.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else "# The jury\n"
    for name, lines in parts.items():
        begin, end = BEGIN.format(name), END.format(name)
        if (text.count(begin), text.count(end)) == (0, 0):
            text = f"{text.rstrip()}\n\n{begin}\n{end}\n"
        before, found, rest = text.partition(begin)
        inside, closed, after = rest.partition(end)
        if not found or not closed or begin in inside + after or end in after:
            raise SystemExit(f"{path}: {begin} and {end} must stand there once, in this order; put them right")
        text = f"{before}{begin}\n\n" + "\n".join(lines) + f"\n\n{end}{after}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
