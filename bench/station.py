"""What a station costs: images a second with many clients against a bare loop, and times at 70 % of its load.

    python bench/station.py [--bundle BUNDLE] [--seconds 20] [--clients 8] [--runtime torch]

On loopback alone, and bounded: four runs of `--seconds`. The bare loop decodes and inspects the same files in one
process with the same runtime, before and after the station; the station also queues, writes pictures, records each
verdict on the disk and answers. Without `--bundle` it is one of the recipe `fast` with random weights.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flawmap.bundle import Bundle, build, save_bundle
from flawmap.config import load_recipe
from flawmap.data.images import decode_pixels, encode_png
from flawmap.data.surfaces import write_sample_parts
from flawmap.deploy.inspector import load
from flawmap.measure.threshold import Threshold
from flawmap.station.client import Client

FILES = 16


def made_bundle(path: Path) -> None:
    """A bundle of `fast` with random weights, by which every part passes: it costs what a trained one costs."""
    recipe = load_recipe("fast", ["model.familiarity=[]"])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe.model, with_refinement=False).eval()
    save_bundle(Bundle(model, recipe, Threshold(1.0, 1.0, 0.01, 0, False, "given", ""), {}), path)


def bare(bundle: Path, files: list[bytes], seconds: float, runtime: str) -> float:
    """Images a second of decoding and inspecting in this process."""
    inspector = load(bundle, "cpu", len(os.sched_getaffinity(0)), runtime=runtime)  # as the one worker has
    for data in files[:2]:
        inspector.inspect_read([inspector.decode(data, "image")])
    done, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        inspector.inspect_read([inspector.decode(files[done % len(files)], "image")])
        done += 1
    return done / (time.monotonic() - began)


def together(url: str, clients: int, work: Callable[[Client, int, float], None]) -> float:
    """Run `work` (client, its number, when the clock began) in a thread a client, all connected before the clock runs.

    Returns the seconds until the last has ended.
    """
    began = 0.0

    def begin() -> None:
        nonlocal began
        began = time.monotonic()

    start = threading.Barrier(clients, begin)

    def one(number: int) -> None:
        with Client(url) as client:
            client.ready()
            start.wait()
            work(client, number, began)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - began


def crowd(url: str, files: list[bytes], seconds: float, clients: int) -> tuple[float, list[float]]:
    """(images a second, seconds of each) of clients that send one image after the other."""
    times: list[float] = []

    def send(client: Client, number: int, began: float) -> None:
        while time.monotonic() < began + seconds:
            number += 1
            sent = time.monotonic()
            client.inspect(files[number % len(files)])
            times.append(time.monotonic() - sent)

    took = together(url, clients, send)
    return len(times) / took, times


def paced(url: str, files: list[bytes], seconds: float, rate: float, clients: int) -> list[float]:
    """Seconds of each image, from when it was due, when they come at random at `rate` a second (Poisson)."""
    rng = np.random.default_rng(0)
    due = np.cumsum(rng.exponential(1 / rate, int(rate * seconds)))
    times: list[float] = []
    taken, lock = iter(due.tolist()), threading.Lock()

    def send(client: Client, _: int, began: float) -> None:
        while True:
            with lock:
                at = next(taken, None)
            if at is None:
                return
            time.sleep(max(0.0, began + at - time.monotonic()))
            client.inspect(files[int(at * 1000) % len(files)])
            times.append(time.monotonic() - began - at)

    together(url, clients, send)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--runtime", default="torch")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "models").mkdir()
        bundle = folder / "models" / "part.bundle"
        if asked.bundle is None:
            made_bundle(bundle)
        else:
            bundle.symlink_to(asked.bundle.resolve())
        write_sample_parts(folder / "parts", "brushed-metal", 256, 1, FILES // 2, FILES // 2, 0)
        images = sorted((folder / "parts" / "test").rglob("*.png"))
        files = [encode_png(decode_pixels(image.read_bytes(), "image")) for image in images]
        before = bare(bundle, files, asked.seconds, asked.runtime)
        log = folder / "log"
        words = ["serve", "--models", str(folder / "models"), "--data", str(folder / "data"), "--port", "0"]
        words += ["--set", f"workers.runtime={asked.runtime}", "--set", "queue.deadline_s=60"]
        with log.open("wb") as stream:
            server = subprocess.Popen([sys.executable, "-m", "flawmap", *words], stderr=stream)
        try:
            while (found := re.search(r"(http://\S+), records", log.read_text())) is None:
                time.sleep(0.1)
            with Client(found[1]) as client:
                while not client.ready():
                    time.sleep(0.1)
            crowd(found[1], files, 2.0, asked.clients)
            rate, busy = crowd(found[1], files, asked.seconds, asked.clients)
            calm = paced(found[1], files, asked.seconds, 0.7 * rate, 4 * asked.clients)
        finally:
            server.terminate()
            server.wait()
        after = bare(bundle, files, asked.seconds, asked.runtime)
    loop = (before + after) / 2
    low, high = np.quantile(calm, (0.5, 0.99))
    print(
        json.dumps(
            {
                "runtime": asked.runtime, "clients": asked.clients, "seconds": asked.seconds, "cores": os.cpu_count(),
                "load_before": os.getloadavg()[0], "bare_loop_per_s": [round(before, 2), round(after, 2)],
                "station_per_s": round(rate, 2), "share_of_bare_loop": round(rate / loop, 3),
                "busy_ms": {"p50": round(1000 * float(np.median(busy)), 1)},
                "at_70_percent_ms": {"images": len(calm), "p50": round(1000 * low, 1), "p99": round(1000 * high, 1)},
                "p99_over_p50": round(high / low, 2),
            },
            indent=1,
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
