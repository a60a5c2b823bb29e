"""Pictures are thinned out while parts come in: what is told of a part stays true."""

from __future__ import annotations

import contextlib
import shutil
import threading
from pathlib import Path
from typing import Any

import httpx
from station_helpers import Server, png, wait_until

from flawmap.errors import StationError
from flawmap.station.client import Client


def test_the_oldest_good_pictures_go_under_load_and_every_part_has_both_or_none(models: Path, tmp_path: Path) -> None:
    """Room for some thirty parts; four senders, two readers, and a look at the pictures every few seconds."""
    shutil.copytree(models, tmp_path / "models")
    room = 30 * 2 * len(png(1))
    limits = [f"keep.gigabytes={room / 1e9:.9f}", "keep.every_s=0.05"]
    server = Server(tmp_path / "models", tmp_path / "data", *(word for limit in limits for word in ("--set", limit)))
    parts: list[dict[str, Any]] = []
    faults: list[str] = []
    stop = threading.Event()

    def send(first: int) -> None:
        with Client(server.url, retries=0) as client:
            for number in range(first, first + 10_000):
                if stop.is_set():
                    return
                try:
                    parts.append(client.inspect(png(number)))
                except StationError as problem:
                    faults.append(str(problem))

    def look() -> None:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            while not stop.is_set():
                for part in http.get("/api/parts", params={"limit": 50, "order": "oldest"}).json()["parts"]:
                    for name in ("original", "overlay"):
                        status = http.get(part["links"][name]).status_code
                        if status not in (200, 410):
                            faults.append(f"{name} {status}")

    threads = [threading.Thread(target=send, args=(10_000 * number,)) for number in range(4)]
    threads += [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    folder = tmp_path / "data" / "pictures"
    wait_until(lambda: len(parts) > 60 and sum(1 for _ in folder.rglob("*.png")) / 2 < len(parts) - 10, 120)
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []

    def bytes_kept() -> int:
        total = 0
        for file in folder.rglob("*.png"):
            with contextlib.suppress(FileNotFoundError):  # thinned out between the listing and this line
                total += file.stat().st_size
        return total

    wait_until(lambda: bytes_kept() <= room)
    with Client(server.url) as client:
        found = [client.part(part["id"]) for part in parts]
    assert server.stop() == 0, "and nothing is thinned out from here on"
    assert "Traceback" not in server.log.read_text()
    files = {file.name for file in folder.rglob("*.png")}
    for part in found:
        both = {f"{part['id']}.png", f"{part['id']}.map.png"}
        assert both <= files or not both & files, part["id"]
        assert part["kept"] == (both <= files)
    gone = [part for part in found if not part["kept"]]
    stay = [part for part in found if part["kept"]]
    assert gone and stay
    if any(part["verdict"] == "pass" for part in stay):
        newest = max(part["seq"] for part in gone)
        early = [part for part in stay if part["verdict"] == "pass" and part["seq"] < newest]
        # A defective one goes only when no good one is left, so that all good ones that stay came after it.
        assert len(early) <= 8, "good ones go first, the oldest; those that were under way at a time have no order"
