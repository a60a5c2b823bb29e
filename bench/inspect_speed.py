"""Time to inspect: flawmap and its peers, end to end and network alone, each in every runtime that is here.

    python bench/inspect_speed.py [--fast BUNDLE|RECIPE] [--paper BUNDLE|RECIPE] [--int8] [--rounds 7] [--write]
    python bench/inspect_speed.py --sides 128,256,512,1024 [--write]
    python bench/inspect_speed.py --counts 1,10,100,1000,10000 [--write]

End to end: from an image file (a PNG of 256x256) to the verdict: decode, resize, network, map at the image's size,
score, threshold; for flawmap also the regions and both drawings. Weights of recipes are random, which costs the same
time, and every part passes. Calls are interleaved; every figure is a ratio to the transcription of the published
program in the same run.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import Times, cores, interleaved, write_result
from contenders import (
    RUNTIMES,
    Contender,
    draw_files,
    exported,
    installed,
    of_bundle,
    peers,
    random_bundle,
    sized_for,
    temporary_folder,
)
from efficientad import EfficientAD
from flawmap.bundle import Bundle, load_bundle
from flawmap.data.dataset import network_input
from flawmap.data.images import read_image
from flawmap.deploy.artefact import GraphRuntime
from flawmap.deploy.inspector import Inspector
from flops import gflop
from transcription import Transcription

BASELINE = "transcription"
LARGE = 1024  # pixels along the side of a large photo
INT8_IMAGES = 8  # untrained weights: fitting INT8 to more changes no time


def bundle_of(source: str, height: int = 0, width: int = 0) -> Bundle:
    """A bundle on disk, or an untrained one of a recipe's sizes; brought to another size when one is given."""
    if not Path(source).is_dir():
        return random_bundle(source, height, width)
    bundle = load_bundle(Path(source))
    if height:
        image = bundle.recipe.image.model_copy(update={"height": height, "width": width or height})
        bundle.recipe = bundle.recipe.model_copy(update={"image": image})
    return bundle


@torch.inference_mode()
def agreement(bundle: Bundle, files: Sequence[Path]) -> dict[str, float]:
    """Largest differences between flawmap and the transcription with the same weights, and cells with another code."""
    theirs = Transcription(with_refinement=bundle.model.refinement is not None).eval()
    theirs.load_state_dict(bundle.model.state_dict())
    ours = bundle.model.to(memory_format=torch.channels_last)  # as the inspector computes it
    found = {"map": 0.0, "score": 0.0, "other_codes": 0}
    for file in files:
        pixels = network_input(read_image(file), bundle.recipe.image)[None]
        first, second = ours(pixels.to(memory_format=torch.channels_last)), theirs(pixels)
        found["map"] = max(found["map"], float((first.map - second.map).abs().max()))
        found["score"] = max(found["score"], float((first.score - second.score).abs().max()))
        found["other_codes"] += int((first.coarse_indices != second.coarse_indices).sum())
        found["other_codes"] += int((first.fine_indices != second.fine_indices).sum())
    return found


def contend(
    contenders: Sequence[Contender], file: Path, rounds: int, own: Mapping[str, Path] | None = None
) -> list[dict[str, Any]]:
    """A row for each contender: seconds end to end, seconds of the network alone, and ratios to the baseline.

    `own`: the files of those, by name, that inspect another one than `file`.
    """
    random = np.random.default_rng(0)
    calls = {}
    for one in contenders:
        pixels = random.random((1, 3, *one.size), np.float32)
        calls[f"whole {one.label}"] = lambda one=one: one.inspect((own or {}).get(one.name, file))
        calls[f"network {one.label}"] = lambda one=one, pixels=pixels: one.network(pixels)
    times = interleaved(calls, rounds)
    rows = []
    for one in contenders:
        row: dict[str, Any] = {"name": one.name, "runtime": one.runtime, "precision": one.precision, "size": one.size}
        row |= {part: times[f"{part} {one.label}"]._asdict() for part in ("whole", "network")}
        rows.append(row)
    base = best(rows, BASELINE)
    for row in rows:
        row["ratio"] = base / row["whole"]["median"] if base else None
    return rows


def best(rows: Sequence[dict[str, Any]], name: str, precision: str = "float32", runtime: str = "") -> float | None:
    """Seconds end to end of a contender in its fastest runtime, or in one; None when it was not measured."""
    fitting = [
        row["whole"]["median"] for row in rows
        if row["name"] == name and row["precision"] == precision and runtime in ("", row["runtime"])
    ]  # fmt: skip
    return min(fitting, default=None)


def measure(
    fast: str, paper: str, runtimes: Sequence[str], rounds: int, int8: bool, with_peers: bool = True,
    large: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Everything at 256x256 (a bundle: at its own size): rows, GFLOP, agreement with the transcription.

    `large`: the recipe `fast` also on a photo of LARGE pixels a side, at the size that it picks for such photos.
    """
    threads = cores()
    with temporary_folder() as name:
        folder = Path(name)
        files = draw_files(folder, INT8_IMAGES, 256, 256)
        bundles = {label: bundle_of(source) for label, source in (("paper", paper), ("fast", fast)) if source}
        own = {}
        if large:
            label = f"fast {LARGE}"
            (folder / "large").mkdir()
            own[label] = draw_files(folder / "large", 1, LARGE, LARGE)[0]
            bundles[label] = random_bundle(sized_for(fast, [own[label]]))
        counted = {label: gflop(bundle.model, *sizes(bundle)) for label, bundle in bundles.items()}
        contenders = peers(folder, runtimes, threads) if with_peers else []
        for label, bundle in bundles.items():
            contenders += of_bundle(label, bundle, folder, runtimes, threads, int8=files if int8 else ())
        rows = contend(contenders, files[0], rounds, own)
        if with_peers:
            counted |= {"transcription": gflop(Transcription()), "efficientad": gflop(EfficientAD())}
        agrees = agreement(bundles["paper"], files[:3]) if "paper" in bundles and with_peers else None
    return {"rows": rows, "gflop": counted, "agreement": agrees, "sources": {"fast": fast, "paper": paper}}


def sizes(bundle: Bundle) -> tuple[int, int]:
    """Rows and columns of a bundle's network."""
    return bundle.recipe.image.height, bundle.recipe.image.width


def sweep(source: str, sides: Sequence[int], runtimes: Sequence[str], rounds: int) -> list[dict[str, Any]]:
    """Time against the side of the image, in pixels: file and network of the same size."""
    calls, labels = {}, []
    with temporary_folder() as name:
        for side in sides:
            folder = Path(name) / str(side)
            folder.mkdir()
            file = draw_files(folder, 1, side, side)[0]
            for one in of_bundle("fast", bundle_of(source, side), folder, runtimes, cores()):
                labels.append((side, one.runtime, one.precision))
                calls[f"{side} {one.label}"] = lambda one=one, file=file: one.inspect(file)
        times = interleaved(calls, rounds)
    return [
        {"side": side, "runtime": runtime, "precision": precision, **taken._asdict(),
         "ns_a_pixel": 1e9 * taken.median / side**2}
        for (side, runtime, precision), taken in zip(labels, times.values(), strict=True)
    ]  # fmt: skip


def endurance(source: str, counts: Sequence[int], runtime: str) -> list[dict[str, Any]]:
    """Images a second and memory, inspecting 1, 10, … images in one process by `Inspector.inspect_many`."""
    with temporary_folder() as name:
        folder = Path(name)
        bundle = bundle_of(source)
        files = draw_files(folder, 16, *sizes(bundle))
        inspector = Inspector(bundle, "cpu", cores())
        if runtime != "torch":
            inspector = Inspector(bundle, runtime=GraphRuntime(exported(bundle, folder / "fast", runtime), cores()))
        for _ in inspector.inspect_many(files[:3]):  # first calls choose algorithms and allocate
            pass
        rows = []
        for count in counts:
            largest, started = 0, time.perf_counter()
            for _ in inspector.inspect_many(islice(cycle(files), count)):
                largest = max(largest, resident())
            took = time.perf_counter() - started
            rows.append({"images": count, "runtime": runtime, "images_a_second": count / took, "memory_mb": largest})
    return rows


def resident() -> int:
    """Memory of this process now, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)


def show(found: dict[str, Any]) -> None:
    """Print what `measure` found."""
    print(f"{'':<28}{'GFLOP':>7}  {'end to end':<34}{'network alone':<34}ratio end to end")
    for row in sorted(found["rows"], key=lambda row: -row["whole"]["median"]):
        label = f"{row['name']} / {row['runtime']}" + ("" if row["precision"] == "float32" else " " + row["precision"])
        counted = f"{found['gflop'].get(row['name'], float('nan')):7.1f}"
        ratio = "" if row["ratio"] is None else f"{row['ratio']:6.2f}"
        print(f"{label:<28}{counted}  {Times(**row['whole'])!s:<34}{Times(**row['network'])!s:<34}{ratio}")
    if found["agreement"]:
        print("paper architecture against the transcription, same weights: ", end="")
        print(", ".join(f"{name.replace('_', ' ')} {value:.2g}" for name, value in found["agreement"].items()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", default="fast", help="a bundle, or a recipe, whose weights are then random")
    parser.add_argument("--paper", default="paper", help="the same; empty to leave it out")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--int8", action="store_true", help="flawmap's exports in INT8 too")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--large", action="store_true", help=f"the recipe fast on a photo of {LARGE} pixels a side too")
    parser.add_argument("--sides", help="time against the image's side, of the fast one")
    parser.add_argument("--counts", help="images a second and memory, of the fast one")
    parser.add_argument("--write", action="store_true", help="write bench/results/*.json")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    runtimes = [runtime for runtime in chosen.runtimes.split(",") if installed(runtime)]
    for runtime in set(chosen.runtimes.split(",")) - set(runtimes):
        print(f"left out: {runtime}, which is not installed here (pip install 'flawmap[export]')")
    torch.set_num_threads(cores())
    if chosen.sides:
        rows = sweep(chosen.fast, [int(side) for side in chosen.sides.split(",")], runtimes, chosen.rounds)
        for row in rows:
            times = Times(row["median"], row["low"], row["high"])
            print(
                f"{row['side']:>5} {row['runtime']:<9}{row['precision']:<9}{times}  {row['ns_a_pixel']:7.1f} ns a pixel"
            )
        what, values = "sides", {"rows": rows, "source": chosen.fast}
    elif chosen.counts:
        rows = endurance(chosen.fast, [int(count) for count in chosen.counts.split(",")], runtimes[-1])
        for row in rows:
            print(f"{row['images']:>6} images  {row['images_a_second']:8.2f} a second  {row['memory_mb']} MiB")
        what, values = "counts", {"rows": rows, "source": chosen.fast}
    else:
        values = measure(
            chosen.fast, chosen.paper, runtimes, chosen.rounds, chosen.int8, not chosen.no_peers, chosen.large
        )
        show(values)
        what = "inspect"
    if chosen.write:
        print(f"wrote {write_result(what, what, values)}")


if __name__ == "__main__":
    main()
