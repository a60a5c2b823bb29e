from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from station_helpers import Server, png, wait_until

from flawmap.errors import StationError
from flawmap.station.audit import audit
from flawmap.station.client import Client
from flawmap.station.record import Record
from flawmap.station.results import Query, Results

KILLS = int(os.environ.get("FLAWMAP_KILLS", "5"))


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_nothing_answered_is_missing_after_a_kill_under_load(
    models: Path, tmp_path: Path, database: str, request: pytest.FixtureRequest
) -> None:
    """The server is killed again and again while four senders are at it; all they were told is in the record."""
    shutil.copytree(models, tmp_path / "models")
    kills = KILLS if "sqlite" in database else min(KILLS, 2)
    told: dict[str, dict[str, Any]] = {}
    decided: list[str] = []
    for _ in range(kills):
        server = Server(tmp_path / "models", tmp_path / "data", "--database", database)
        stop, before = threading.Event(), len(told)

        def send(first: int, url: str = server.url, stop: threading.Event = stop) -> None:
            with Client(url, retries=0) as client:
                number = first
                while not stop.is_set():
                    number += 1
                    try:
                        part = client.inspect(png(number))
                        told[part["id"]] = part
                        if number % 5 == 0:
                            client.decide(part["id"], "reject")
                            decided.append(part["id"])
                    except StationError:
                        continue  # the one that was under way

        threads = [threading.Thread(target=send, args=(1000 * number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda before=before: len(told) >= before + 15)  # type: ignore[misc]
        server.kill()
        stop.set()
        for thread in threads:
            thread.join()
    server = Server(tmp_path / "models", tmp_path / "data", "--database", database)
    with Client(server.url) as client:
        for ident, part in told.items():
            found = client.part(ident)
            assert found | {"decision": None, "decisions": [], "final": part["final"], "unlike": []} == part
            assert client.picture(ident, "original")
            assert client.picture(ident, "map")
        for ident in decided:
            assert client.part(ident)["final"] == "reject"
    assert server.stop() == 0
    record = Record(database)
    found = audit(record)
    assert (found.whole, found.faults) == (True, [])
    from flawmap.station.files import Pictures

    assert Results(record, Pictures(tmp_path / "data" / "pictures")).counts(Query())["inspected"] >= len(told)
    record.close()
    assert len(told) >= 15 * kills
