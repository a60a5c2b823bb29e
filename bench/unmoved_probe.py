"""What one commit computes, for unmoved.py: by commands, settings and names that README has released, and no others.

    python bench/unmoved_probe.py PART FOUND BEFORE THREADS

PART is one of the functions of `PROBES`; what it found goes to the JSON file FOUND; BEFORE is the folder of the older
side, with its demo. The flawmap is that of the Python which runs this.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 40
SETTLED_S = 12.0  # after which a station has counted its parts again
FLAWMAP = (sys.executable, "-m", "flawmap")
# What differs from one run to the next, in answers, figures and files.
FLEETING = {
    "time", "started", "created", "since", "last_part", "silent_s", "duration_ms", "per_hour", "hash", "sha256",
    "weights_sha256", "minutes", "seconds", "peak_memory_mb", "when", "from", "to", "until", "bytes", "machine",
    "train_s", "inspect_ms", "ms", "milliseconds", "flawmap", "version", "next_shift", "durations_ms", "head",
}  # fmt: skip
IDENTITY = re.compile(r"\b[0-9a-f]{32}\b")
MOMENT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)?")


def digest(data: bytes) -> str:
    """The first digits of the SHA-256."""
    return hashlib.sha256(data).hexdigest()[:20]


def tensors(folder: Path) -> list[str]:
    """The digests of all tensors in the safetensors files of a folder, in order: their names may change."""
    from safetensors.numpy import load_file

    files = sorted(folder.glob("*.safetensors"))
    return sorted(digest(array.tobytes() + str(array.shape).encode()) for file in files
                  for array in load_file(file).values())  # fmt: skip


@contextmanager
def losses() -> Iterator[list[str]]:
    """Every value that is derived from, to the last bit, as training steps run."""
    import torch

    found: list[str] = []
    real = torch.Tensor.backward

    def noted(self: Any, *given: Any, **named: Any) -> Any:
        found.append(float(self.detach()).hex())
        return real(self, *given, **named)

    torch.Tensor.backward = noted  # type: ignore[method-assign]
    try:
        yield found
    finally:
        torch.Tensor.backward = real  # type: ignore[method-assign]


def learn_for_steps(_: Path, threads: int) -> Any:
    """Losses and weights of STEPS steps of each recipe, from drawn parts."""
    import flawmap

    drawn = ("--size", "128", "--train", "40", "--good", "4", "--bad", "4")
    subprocess.run([*FLAWMAP, "draw", "parts", *drawn], check=True, stdout=subprocess.DEVNULL)
    small = ["image.height=64", "image.width=64", "detect.batch=2", "refine.batch=2", f"refine.steps={STEPS}"]
    found = {}
    for recipe, extra in (("fast", []), ("paper", small)):
        settings = [f"detect.steps={STEPS}", f"run.threads={threads}", *extra]
        out = Path(f"{recipe}.bundle")
        with losses() as values:
            flawmap.train_bundle(flawmap.read_layout("parts"), flawmap.load_recipe(recipe, settings), out, quiet=True)
        found[recipe] = {"losses": values, "tensors": tensors(out)}
    return found


def whole_demo(_: Path, threads: int) -> Any:
    """All figures of the demo, and what its bundle holds."""
    del threads  # OMP_NUM_THREADS says so
    subprocess.run([*FLAWMAP, "demo", "demo"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    folder = Path("demo")
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        images = sorted([*row.values()] for row in csv.DictReader(file))
    return {
        "images": images,
        "metrics": steady(json.loads((folder / "metrics.json").read_text(encoding="utf-8"))),
        "tensors": tensors(folder / "part.bundle"),
    }


def in_runtimes(before: Path, threads: int) -> Any:
    """Score, map and regions of each test part, by each runtime, with the older side's bundle."""
    import flawmap

    demo = before / "demo" / "demo"
    files = sorted((demo / "parts" / "test").rglob("*.png"))
    found: dict[str, Any] = {}
    for runtime in ("torch", "onnx", "openvino"):
        inspector = flawmap.load(demo / "part.bundle", "cpu", threads, runtime=runtime)
        found[runtime] = {"tested": len(files)}
        for file in files:
            part = inspector.inspect(file)
            regions = [[*region.box, region.area, float(region.peak).hex()] for region in part.regions]
            value = np.ascontiguousarray(part.map)
            found[runtime][str(file.relative_to(demo))] = {
                "score": float(part.score).hex(), "defective": bool(part.defective), "regions": regions,
                "map": f"{value.dtype} {value.shape} {digest(value.tobytes())}",
            }  # fmt: skip
    return found


def steady(value: Any, known: dict[str, str] | None = None) -> Any:
    """An answer without what no two runs have alike: identities are numbered as they come."""
    known = {} if known is None else known
    if isinstance(value, dict):
        return {name: "*" if name in FLEETING else steady(each, known) for name, each in value.items()}
    if isinstance(value, list):
        return [steady(each, known) for each in value]
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, str):
        named = IDENTITY.sub(lambda found: known.setdefault(found[0], f"ID{len(known) + 1}"), value)
        return MOMENT.sub("TIME", named)
    return value


def of_the_station(before: Path, threads: int) -> Any:
    """The answers of a station with the older side's bundle to a fixed script of requests."""
    import shutil

    import httpx

    demo = before / "demo" / "demo"
    shutil.copytree(demo / "part.bundle", "models/part.bundle")
    command = [*FLAWMAP, "serve", "--models", "models", "--data", "station", "--port", "0"]
    log = Path("log")
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        with httpx.Client(base_url=_address(process, log), timeout=120, trust_env=False) as http:
            return _asked(http, sorted((demo / "parts" / "test").rglob("*.png")))
    finally:
        process.terminate()
        process.wait()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where the station listens, once it is ready."""
    import httpx

    for _ in range(1200):
        found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text(encoding="utf-8"))
        if found:
            try:
                if httpx.get(f"{found[0]}/readyz", trust_env=False).status_code == 200:
                    return found[0]
            except httpx.TransportError:
                pass
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"the station did not start:\n{log.read_text(encoding='utf-8')}")


def _asked(http: Any, files: list[Path]) -> Any:
    """Status and answer of each request of the script."""
    found: dict[str, Any] = {}
    known: dict[str, str] = {}

    def ask(method: str, path: str, **given: Any) -> Any:
        answer = http.request(method, path, **given)
        name = f"{len(found) + 1} {method} {IDENTITY.sub(lambda each: known.get(each[0], '*'), path)}"
        body: Any
        if answer.headers.get("content-type", "").startswith("application/json"):
            body = answer.json()
            found[name] = [answer.status_code, steady(body, known)]
        else:
            body = answer.content
            kept = digest(body) if answer.headers.get("content-type", "").startswith("image/") else ""
            found[name] = [answer.status_code, answer.headers.get("content-type", ""), kept]
        return body

    ask("GET", "/readyz")
    ask("GET", "/api/session")
    chosen = files[::7]
    parts = []
    for number, file in enumerate(chosen):
        asked = {"label": f"SN-{number}", "lot": "A", "camera": f"c{number % 2}"}
        parts.append(ask("POST", "/api/parts", params=asked, content=file.read_bytes(),
                         headers={"Content-Type": "image/png", "Idempotency-Key": f"k{number}"})["id"])  # fmt: skip
    ask("POST", "/api/parts", content=chosen[0].read_bytes(), params={"label": "SN-0", "lot": "A", "camera": "c0"},
        headers={"Content-Type": "image/png", "Idempotency-Key": "k0"})  # fmt: skip
    ask("POST", "/api/parts", content=b"no image", headers={"Content-Type": "image/png"})
    several = [("image", (file.name, file.read_bytes(), "image/png")) for file in files[:3]]
    ask("POST", "/api/parts/batch", files=several)
    for kind in ("", "/original", "/photo", "/map", "/overlay", "/heat", "/thumbnail", "/nothing"):
        ask("GET", f"/api/parts/{parts[0]}{kind}")
    ask("POST", f"/api/parts/{parts[0]}/decisions", json={"verdict": "reject", "note": "scratch"})
    ask("POST", f"/api/parts/{parts[1]}/decisions", json={"verdict": "pass", "note": ""})
    ask("POST", f"/api/parts/{parts[1]}/decisions", json={"verdict": None})
    ask("POST", f"/api/parts/{parts[1]}/decisions", json={"verdict": "true"})
    for query in ("", "?verdict=reject", "?lot=A&limit=3", "?label_begins=sn-1", "?camera=c1&count=true", "?limit=0"):
        ask("GET", f"/api/parts{query}")
    ask("GET", "/api/models")
    ask("POST", "/api/models/part@9/use")
    ask("GET", "/api/threshold")
    ask("POST", "/api/threshold", json={"overkill": 0.1, "note": "tried"})
    ask("GET", "/api/models")
    ask("GET", "/api/lots")
    ask("GET", "/api/report")
    ask("GET", "/api/datasets")
    ask("GET", "/api/trainings")
    ask("GET", "/api/recipes")
    ask("GET", "/api/audit")
    ask("POST", "/api/audit")
    ask("POST", "/api/test", json={"on": True, "verdicts": False})
    ask("POST", "/api/parts", content=files[-1].read_bytes(), headers={"Content-Type": "image/png"})
    ask("POST", "/api/test", json={"on": False})
    time.sleep(SETTLED_S)
    ask("GET", "/api/station")
    ask("GET", "/nothing")
    return found


def commands(_: Path, threads: int) -> Any:
    """The help of every command."""
    del threads
    whole = _helped()
    listed = whole.partition("Commands:")[2].partition("Start with")[0]
    names = re.findall(r"^  ([a-z][a-z-]*)\s", listed, re.MULTILINE)
    return {"": whole, **{name: _helped(name) for name in names}}


def _helped(*command: str) -> str:
    return subprocess.run([*FLAWMAP, *command, "--help"], check=True, capture_output=True, text=True).stdout


PROBES: dict[str, Callable[[Path, int], Any]] = {
    "losses": learn_for_steps,
    "demo": whole_demo,
    "runtimes": in_runtimes,
    "station": of_the_station,
    "help": commands,
}


def main() -> None:
    part, found, before, threads = sys.argv[1:]
    result = PROBES[part](Path(before), int(threads))
    beside = Path(found + ".new")
    beside.write_text(json.dumps(result, indent=1), encoding="utf-8")
    beside.replace(found)


if __name__ == "__main__":
    main()
