"""What the station's tests call: ports, waiting, drawn parts."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import httpx
import psutil
import pytest

from flawmap.station.client import Client

Made = TypeVar("Made")

TINY = [
    "image.height=64", "image.width=64", "detect.steps=3", "detect.batch=2", "refine.steps=0", "few.steps=3",
    "detect.crop=64", "run.threads=1", "threshold.held_out_min=2", "threshold.smallest_found=false",
]  # fmt: skip


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_until(fact: object, seconds: float = 60.0) -> None:
    """Until the function `fact` gives something true; a test that waits in vain fails."""
    ends = time.monotonic() + seconds
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.02)


def picture(number: int, height: int = 64, width: int = 80) -> Any:
    """A drawn part (H, W, 3) uint8, another for each number; those with odd hundreds are good."""
    import numpy as np

    rng = np.random.default_rng(number)
    _rows, columns = np.mgrid[:height, :width]
    grey = 120 + 60 * np.sin(columns / 5 + rng.uniform(0, 6)) + rng.normal(0, 6, (height, width))
    if number // 100 % 2 == 0:
        top, left = rng.integers(5, height - 25), rng.integers(5, width - 25)
        grey[top : top + 20, left : left + 20] = 250
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, 2)


def png(number: int, height: int = 64, width: int = 80) -> bytes:
    from flawmap.data.images import encode_png

    return encode_png(picture(number, height, width))


def run_async(work: Coroutine[Any, Any, Made]) -> Made:
    """Run a coroutine to its end in a thread of its own: in this one Playwright's loop runs once a page was open."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


class Server:
    """A real `flawmap serve` on loopback, its log in `log`."""

    made: ClassVar[list[Server]] = []  # a test that fails leaves its server running; the fixture `leftovers` ends it

    def __init__(
        self, models: Path, data: Path, *options: str, host: str = "127.0.0.1", wait: bool = True,
        before: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.models, self.data, self.log = models, data, data.with_name(data.name + ".log")
        usual = ["--set", "workers.count=1", "--set", "workers.threads=1", "--set", "verdict.doubt=0.0"]
        words = ["serve", "--models", str(models), "--data", str(data), "--host", host, "--port", "0", *usual, *options]
        with self.log.open("ab") as log:
            start = log.tell()
            self.process = subprocess.Popen([*before, sys.executable, "-m", "flawmap", *words], stdout=log, stderr=log)
        self.url = ""
        Server.made.append(self)

        def listens() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with self.log.open("rb") as log:
                log.seek(start)
                found = re.search(rb"(https?://\S+:\d+), records in", log.read())
            self.url = "" if found is None else found[1].decode().replace("0.0.0.0", "127.0.0.1")
            return found is not None

        wait_until(listens)
        if wait:
            client = Client(self.url)
            wait_until(client.ready)
            client.close()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


def workers_of(server: Server) -> list[int]:
    """The ids of a server's worker processes."""
    found = psutil.Process(server.process.pid).children(recursive=True)
    return [each.pid for each in found if any("spawn_main" in word for word in each.cmdline())]


def dataset(http: httpx.Client, numbers: range, name: str = "part") -> str:
    ident = http.post("/api/datasets", json={"name": name}).json()["id"]
    files = [("image", (f"{number}.png", png(number), "image/png")) for number in numbers]
    for start in range(0, len(files), 32):
        answer = http.post(f"/api/datasets/{ident}/photos", files=files[start : start + 32])
        assert answer.status_code == 200, answer.text
    return str(ident)


def certify(folder: Path, names: str = "IP:127.0.0.1", days: int = 2) -> tuple[Path, Path]:
    """A certificate that no authority signed, and its key; of minus so many days, one that has expired."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl (apt-get install openssl)")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    asked, curve = folder / "asked.pem", "ec_paramgen_curve:prime256v1"
    words = ["req", "-new", "-newkey", "ec", "-pkeyopt", curve, "-nodes", "-subj", "/CN=station", "-keyout", key]
    signing = ["x509", "-req", "-in", asked, "-signkey", key, "-days", str(days), "-copy_extensions", "copy"]
    for each in ([*words, "-addext", f"subjectAltName={names}", "-out", asked], [*signing, "-out", certificate]):
        subprocess.run(["openssl", *each], check=True, capture_output=True)
    return certificate, key
