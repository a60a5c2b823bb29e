"""`make bench`: the targets against what was measured, the missed and the unmeasured ones too.

    python bench/table.py [--no-live] [--rounds 3]

Figures come from bench/results/*.json; those of inspecting, of each processor they were measured on. The speed of
inspecting without INT8 is measured anew unless --no-live is given: some minutes, on a machine that should do nothing
else.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from common import LOAD, commit, cores, machine, processor, read_results

SEEDS = 3  # that the targets of 15 minutes ask for
MINUTES = (5, 15, 30, 60, 120)


class Row(NamedTuple):
    """One target: `sign` is <= or >=; value None: not measured. `shown` replaces the bare value."""

    group: str
    target: str
    sign: str
    wanted: float
    value: float | None
    shown: str = ""
    how: str = ""

    @property
    def verdict(self) -> str:
        """met, missed or not measured."""
        if self.value is None:
            return "not measured"
        return "met" if (self.value <= self.wanted if self.sign == "<=" else self.value >= self.wanted) else "missed"

    @property
    def measured(self) -> str:
        """The figure, and by how much it misses."""
        if self.value is None:
            return self.shown or "-"
        text = self.shown or f"{self.value:.3g}"
        if self.verdict == "missed":
            text += f", by {abs(self.value - self.wanted):.2g}"
            if self.wanted >= 1:
                text += f" ({abs(self.value / self.wanted - 1):.0%})"
        return text


def source(result: dict[str, Any] | None, command: str) -> str:
    """Where a figure is from."""
    if result is None:
        return f"measure with: {command}"
    busy = result.get("load_before")
    note = f"; load {busy} before it began" if busy is not None and busy > 0.5 else ""
    return f"{command} · {result['commit']} · {result['machine']} · {result['measured'][:10]}{note}"


def latest(what: str) -> dict[str, Any] | None:
    """The newest result of a kind."""
    found = read_results(what)
    return found[-1] if found else None


def by_processor(what: str) -> list[dict[str, Any]]:
    """The newest result of a kind on each processor, the newest first."""
    newest = {processor(found): found for found in read_results(what)}
    return sorted(newest.values(), key=lambda found: str(found["measured"]), reverse=True)


def fastest(found: dict[str, Any] | None, name: str, precision: str = "float32", runtime: str = "") -> float | None:
    """Seconds end to end, in the fastest runtime or in one."""
    if found is None:
        return None
    times = [
        row["whole"]["median"] for row in found["rows"]
        if row["name"] == name and row["precision"] == precision and runtime in ("", row["runtime"])
    ]  # fmt: skip
    return min(times, default=None)


def ratio(above: float | None, below: float | None) -> float | None:
    """above / below, None when either is missing."""
    return None if above is None or below is None else above / below


def _least(*values: float | None) -> float | None:
    """The smallest that is there."""
    return min((value for value in values if value is not None), default=None)


def times(value: float | None) -> str:
    """A ratio, shown."""
    return "" if value is None else f"{value:.2f}x"


def inspecting(found: dict[str, Any] | None, how: str = "") -> list[Row]:
    """Targets of inspecting; `how` it was measured just now, "" for a stored result."""
    where = "just now" if how else processor(found) if found else "nowhere"
    how = how or source(found, "python bench/inspect_speed.py --int8 --write")
    fast, paper = fastest(found, "fast"), fastest(found, "paper")
    published, small = fastest(found, "transcription"), fastest(found, "efficientad")
    in_torch = ratio(fastest(found, "transcription", runtime="torch"), fastest(found, "paper", runtime="torch"))
    agrees = found["agreement"] if found else None
    far = max(agrees["map"], agrees["score"]) if agrees else None
    shown = f"{far:.1e} ({agrees['other_codes']} cells took another code)" if agrees else ""
    group = f"Inspecting, 256x256, end to end, each in its best runtime: {where}"
    # The published program computes in float32; EfficientAD-S is given bfloat16 as flawmap is.
    lower, small_lower = fastest(found, "fast", "bfloat16"), fastest(found, "efficientad", "bfloat16")
    best_fast, best_small = _least(fast, lower), _least(small, small_lower)
    at_best = [
        ("fast: against the published inference", 30, ratio(published, best_fast), ratio(published, fast)),
        (
            "fast: against EfficientAD-S, both in their best precision",
            5,
            ratio(best_small, best_fast),
            ratio(small, fast),
        ),
    ]
    against = [
        ("paper architecture: against the published inference", 1.7, ratio(published, paper)),
        ("paper architecture: the same, both in PyTorch", 1.7, in_torch),
    ]
    if found and (quantized := fastest(found, "paper", "int8")):
        against.append(("paper architecture in INT8: the same", 5, ratio(published, quantized)))
    counted = found["gflop"].get("fast") if found else None
    return [
        Row(group, "fast: GFLOP an image", "<=", 12, counted, "" if counted is None else f"{counted:.1f}", how),
        *(
            Row(group, name, ">=", wanted, value, f"{times(value)}; in float32 {times(full)}" if value else "", how)
            for name, wanted, value, full in at_best
        ),
        *(Row(group, name, ">=", wanted, value, times(value), how) for name, wanted, value in against),
        Row(group, "paper architecture: largest difference of map and score", "<=", 1e-4, far, shown, how),
    ]


def training() -> list[Row]:
    """Targets of a training step."""
    rows = []
    for where, wanted, command in (("cpu", 2, ""), ("gpu", 5, " --device cuda")):
        found = next((run for run in reversed(read_results("train_step")) if run["device"] == where), None)
        how = source(found, f"python bench/train_step.py{command} --write")
        for precision in ("float32", "bfloat16"):
            steps = {row["name"]: row["ratio"] for row in found["rows"]} if found else {}
            value = steps.get(f"paper {precision}")
            target = f"paper architecture, {precision}, {where.upper()}: a step against the published one"
            rows.append(Row("Training", target, ">=", wanted, value, times(value), how))
    found = latest("train_curves")
    how = source(found, "python bench/train_step.py --curves 40 --side 64 --write")
    value = found["first_step"] if found else None
    target = "the same defects give the same losses, first step"
    rows.append(Row("Training", target, "<=", 1e-4, value, "" if value is None else f"{value:.1e}", how))
    value = found["program"] / found["seed"] if found else None
    target = "losses of the later half: program against program, as a multiple of seed against seed"
    rows.append(Row("Training", target, "<=", 2, value, how=how))
    return rows


def runs(name: str, minutes: float, tag: str = "", gpu: bool = False) -> list[dict[str, Any]]:
    """Finished runs of `fast` on one data set."""
    return [
        run for run in read_results("quality")
        if run["name"] == name and run["wanted_minutes"] == minutes and run["tag"] == tag
        and run["recipe"] == "fast" and gpu == ("CPU" not in run["trained_by"])
    ]  # fmt: skip


def spread(values: Sequence[float], seeds: int) -> str:
    """Mean, range and number of seeds."""
    few = f" of {seeds}" if len(values) < seeds else ""
    extent = f" [{min(values):.3f}, {max(values):.3f}]" if len(values) > 1 else ""
    return f"{fmean(values):.3f}{extent}, {len(values)}{few} seed{'s' if max(len(values), seeds) > 1 else ''}"


def quality(gpu: bool) -> list[Row]:
    """Targets of quality against minutes; a GPU takes as many steps as two cores do in so many minutes."""
    rows, group = [], f"Quality, trained on {'a GPU, in as many steps' if gpu else 'two cores'}"
    for name, minutes, targets in (
        ("magnetic_tile", 15, (("image AUROC", "image_auroc", 0.88), ("AUROC of the worst kind", "", 0.70))),
        ("kolektor", 15, (("image AP", "image_ap", 0.70), ("pixel AP", "pixel_ap", 0.40))),
        ("magnetic_tile", 60, (("image AUROC", "image_auroc", 0.93),)),
        ("kolektor", 60, (("image AP", "image_ap", 0.80), ("pixel AP", "pixel_ap", 0.50))),
    ):
        found = runs(name, minutes, gpu=gpu)
        command = f"python bench/quality.py --data {name} --name {name} --minutes {minutes} --seeds 0,1,2"
        how = source(found[-1] if found else None, command)
        for target, key, wanted in targets:
            values = [_metric(run, key) for run in found]
            value = fmean(values) if values else None
            shown = spread(values, SEEDS if minutes == 15 else 1) if values else ""
            rows.append(Row(group, f"{name}, {minutes} min: {target}", ">=", wanted, value, shown, how))
    return rows


def minutes_to_train() -> list[Row]:
    """Targets of a whole training."""
    rows = []
    fifteen = [*runs("magnetic_tile", 15), *runs("kolektor", 15)]
    for target, key, wanted, unit in (
        ("fast: longest training, minutes on two cores", "minutes", 15, 1),
        ("fast: largest memory, GB", "peak_memory_mb", 4, 1024),
    ):
        most = max(fifteen, key=lambda run, key=key: run[key], default=None)
        how = source(
            most, f"python bench/quality.py, {most['name']}, seed {most['seed']}" if most else "bench/quality.py"
        )
        rows.append(Row("Training", target, "<=", wanted, most and most[key] / unit, how=how))
    # "mean": before places of good photos were remembered; the steps are the same
    gpu = [
        run for name in ("magnetic_tile", "kolektor") for tag in ("", "mean") for run in runs(name, 15, tag, gpu=True)
    ]
    how = source(gpu[-1] if gpu else None, "python bench/quality.py, on a GPU")
    longest = max((run["minutes"] for run in gpu), default=None)
    rows.append(Row("Training", "fast: the same on a GPU (H200 asked for)", "<=", 2, longest, how=how))
    return rows


def _metric(run: dict[str, Any], key: str) -> float:
    """A metric, or the AUROC of the worst kind of defect."""
    if not key:
        return min(kind["value"] for kind in run["kinds"].values())
    return float(run["metrics"][key]["value"])


def linear() -> list[Row]:
    """Images a second and memory from 1 to 10 000 images."""
    found = latest("counts")
    how = source(found, "python bench/inspect_speed.py --counts 1,10,100,1000,10000 --write")
    rows = [row for row in found["rows"] if row["images"] >= 10] if found else []
    whole = bool(rows) and rows[-1]["images"] >= 10_000
    upto = f" up to {rows[-1]['images']}" if rows else ""
    slowest = (
        min(row["images_a_second"] for row in rows) / max(row["images_a_second"] for row in rows) if rows else None
    )
    growth = max(row["memory_mb"] for row in rows) / min(row["memory_mb"] for row in rows) if rows else None
    group = "Many images, in one process"
    note = "" if whole or not rows else ", not yet to 10 000"
    return [
        Row(group, f"slowest against fastest rate, 10 images{upto}", ">=", 0.9, slowest,
            "" if slowest is None else f"{slowest:.2f}{note}", how),
        Row(group, "largest against smallest memory", "<=", 1.05, growth,
            "" if growth is None else f"{growth:.3f}{note}", how),
    ]  # fmt: skip


def demo() -> list[Row]:
    """`make demo`."""
    found = latest("demo")
    how = source(found, "python bench/demo.py --write")
    return [
        Row("make demo", "image AUROC", ">=", 0.97, found and found["metrics"]["image_auroc"]["value"], how=how),
        Row("make demo", "minutes", "<=", 4, found and found["minutes"], how=how),
    ]


def show(rows: Iterable[Row]) -> None:
    """Print the rows by group; what a row came from once for all that follow with the same."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    for group, found in groups.items():
        print(f"\n{group}")
        for number, row in enumerate(found):
            print(f"  {row.verdict:<13}{row.target:<88}{row.sign} {row.wanted:<8g}{row.measured}")
            if number + 1 == len(found) or found[number + 1].how != row.how:
                print(f"{'':15}{row.how}")
    every = [row.verdict for found in groups.values() for row in found]
    print("\n" + ", ".join(f"{every.count(word)} {word}" for word in ("met", "missed", "not measured")))


def show_curves() -> None:
    """Quality against minutes, and time against the side of the image."""
    for name, keys in (("magnetic_tile", ("image_auroc", "", "pixel_ap")), ("kolektor", ("image_ap", "pixel_ap"))):
        for gpu in (False, True):
            print(f"\n{name}, fast, {'a GPU' if gpu else 'two cores'}: quality against minutes of training")
            for minutes in MINUTES:
                found = runs(name, minutes, gpu=gpu)
                shown = [spread([_metric(run, key) for run in found], 1) if found else "not measured" for key in keys]
                words = [f"{key or 'worst kind'} {text}" for key, text in zip(keys, shown, strict=True)]
                took = f" ({fmean(run['minutes'] for run in found):.1f} measured)" if found else ""
                print(f"  {minutes:>4} min{took}: " + "; ".join(words))
    found = latest("sides")
    print("\nfast: time against the side of the image, end to end")
    if found is None:
        print("  not measured; python bench/inspect_speed.py --sides 128,256,512,1024 --write")
        return
    for row in found["rows"]:
        who = f"{row['side']:>5} {row['runtime']:<9}{row['precision']:<9}"
        print(f"  {who}{1000 * row['median']:9.1f} ms  {row['ns_a_pixel']:7.1f} ns a pixel")
    print(f"  {source(found, 'python bench/inspect_speed.py --sides 128,256,512,1024 --write')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-live", action="store_true", help="measure nothing, show what is stored")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fast", default="fast", help="a bundle, or a recipe, whose weights are then random")
    chosen = parser.parse_args()
    rows: list[Row] = []
    if not chosen.no_live:
        from contenders import RUNTIMES, installed
        from inspect_speed import measure

        print(f"measuring on {machine()}, load {LOAD}; some minutes", flush=True)
        if LOAD is not None and 0.3 * cores() < LOAD:
            print("other programs are running: the ratios below may be off")
        found = measure(chosen.fast, "paper", [name for name in RUNTIMES if installed(name)], chosen.rounds, False)
        rows += inspecting(found, f"just now · {commit()} · {machine()}")
    for stored in by_processor("inspect") or [None]:
        rows += inspecting(stored)
    trained = [*training(), *minutes_to_train(), *quality(gpu=False), *quality(gpu=True)]
    show([*rows, *trained, *linear(), *demo()])
    show_curves()


if __name__ == "__main__":
    main()
