"""What the station says of the threshold's promise: only what somebody decided good is called good."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from station_helpers import Server, png, wait_until

from flawmap.bundle_facts import sealed
from flawmap.measure.threshold import Groups, Threshold, choose_threshold
from flawmap.station.access import LOCAL
from flawmap.station.client import Client
from flawmap.station.files import Pictures
from flawmap.station.models import Version, last_switch
from flawmap.station.promise import Rejected, promise_now, promise_of
from flawmap.station.record import Entry, Record
from flawmap.station.results import Query, Results

PHOTOS = [number / 1000 for number in range(90)]
LIMIT = choose_threshold(PHOTOS, PHOTOS, 0.05)  # three photos lie above it


def version(threshold: Threshold | None = LIMIT, photos: list[float] = PHOTOS) -> Version:
    return Version(
        ref="part@1", name="part", version=1, path=Path(), sha256="", weights_sha256="", threshold=threshold,
        created="", trained_on=90, held_out_scores=tuple(photos), held_out_peaks=tuple(photos), held_out_folders=0,
        set_aside=0.0, groups=Groups(), tail="observed", origin="", by="", lacks="",
    )  # fmt: skip


def verdict_on(*counts: int, of: Version | None = None) -> str:
    return str(promise_of(Rejected(*counts), of or version())["verdict"])


def test_false_alarms_that_somebody_decided_are_held_against_all_parts() -> None:
    assert verdict_on(100, 30, 30, 0) == "broken"
    told = promise_of(Rejected(100, 30, 30, 0), version())["sentence"]
    assert told.startswith("30 of 100 parts were rejected and then decided good, where 5 % at most were expected:")
    # All five that were decided are false alarms, but of a hundred parts five may be.
    assert verdict_on(100, 5, 5, 0) == "no sign"


def test_parts_decided_defective_are_no_good_parts() -> None:
    assert verdict_on(100, 95, 20, 70) == "broken"  # 20 of the 30 that may be good
    assert verdict_on(200, 30, 11, 0) == "no sign"
    assert verdict_on(200, 190, 8, 180) == "broken"
    assert verdict_on(200, 190, 0, 190) == "no sign"  # a bad day, and the threshold is right
    assert verdict_on(200, 16, 16, 0) == "no sign"
    assert verdict_on(200, 16, 16, 0, 170) == "broken"  # 16 of the 30 that may be good: the others had escaped


def test_most_parts_rejected_is_said_without_a_decision() -> None:
    assert verdict_on(11, 10, 0, 0) == "no sign", "so few may be chance"
    assert verdict_on(18, 17, 0, 0) == "mostly rejected"
    assert verdict_on(64, 60, 0, 0) == "mostly rejected"
    assert "60 of 64 parts were rejected; decide some of them" in promise_of(Rejected(64, 60), version())["sentence"]
    assert verdict_on(64, 30, 0, 0) == "no sign"  # twenty times the overkill, and may be defects
    half = choose_threshold(PHOTOS, PHOTOS, 0.5)
    assert verdict_on(64, 36, 0, 0, of=version(half)) == "no sign"


def test_a_threshold_of_the_users_own_is_held_against_the_photos() -> None:
    given = Threshold(0.0445, 0.5, 0.01, 0, False, "given", "")  # half of the photos lie above it
    found = promise_of(Rejected(100, 30, 30, 0), version(given))
    assert (found["verdict"], found["promised"]) == ("no sign", 0.5)


@pytest.mark.parametrize("known", [None, version(None), version(LIMIT, [])])
def test_without_scores_of_good_photos_nothing_is_known(known: Version | None) -> None:
    found = promise_of(Rejected(100, 90, 90, 0), known)
    assert (found["verdict"], found["promised"], found["parts"]) == ("unknown", None, 100)


def test_few_independent_groups_promise_less() -> None:
    few = replace(version(), groups=Groups(9, "folder"))
    found = promise_of(Rejected(100, 23, 23, 0), few)
    assert found["promised"] == pytest.approx(0.1)  # one of ten groups, rather than 5 % of 90 photos
    assert found["verdict"] == "no sign"
    assert verdict_on(100, 23, 23, 0) == "broken"


def part(number: int, score: float, model: str = "part@1") -> Entry:
    body: dict[str, Any] = {}
    said = "reject" if score > LIMIT.score else "pass"
    return Entry("verdict", body, part=f"p{number}", verdict=said, score=score, threshold=LIMIT.score, model=model)


def decision(number: int, verdict: str | None) -> Entry:
    return Entry("decision", {}, part=f"p{number}", verdict=verdict, model="part@1", who=LOCAL.name)


def switch(ref: str, action: str = "use") -> Entry:
    return Entry("model", {"action": action}, model=ref, who=LOCAL.name)


def test_the_record_is_counted_since_the_switch_by_last_decisions(database: str, tmp_path: Path) -> None:
    record = Record(database)
    results = Results(record, Pictures(tmp_path))
    assert last_switch(record) is None
    record.append([part(number, 0.9) for number in range(50)])  # before this model came into use
    (row,) = record.append([switch("part@1")])
    record.append([switch("part@2", "add")])
    assert last_switch(record) == row["time"]
    record.append([part(number, 0.9 if number < 90 else 0.01) for number in range(50, 150)])
    record.append([part(200, 0.9, "other@1")])
    record.append([decision(number, "pass") for number in (*range(50, 80), 100)])  # 100 had passed
    record.append([decision(80, "reject"), decision(81, "pass"), decision(81, None)])  # and one taken back
    record.append([decision(82, "reject"), decision(82, "pass")])
    record.append([decision(101, "reject"), decision(102, "reject"), decision(102, None)])  # both had passed
    assert results.decided_rejects(Query(since=row["time"], model="part@1")) == {"pass": 31, "reject": 1, None: 8}
    found = promise_now(results, version(), "2026-01-01T00:00:00.000000Z")
    assert (found["parts"], found["rejected"], found["decided_good"], found["escaped"]) == (101, 40, 31, 1)
    assert found["verdict"] == "broken"
    assert promise_now(results, version(), "9999-01-01T00:00:00.000000Z")["verdict"] == "no sign"
    record.close()


def test_the_station_and_its_report_tell_it(models: Path, tmp_path: Path) -> None:
    """A model whose good photos scored far lower than any part does."""
    folder = Path(shutil.copytree(models, tmp_path / "models"))
    file = folder / "part.bundle" / "bundle.json"
    note = json.loads(file.read_text(encoding="utf-8"))
    scores = [number * 1e-6 for number in range(40)]
    note["provenance"] |= {"held_out_scores": scores, "held_out_peaks": scores}
    note["threshold"] |= {"score": scores[-2], "overkill": 0.05, "method": "held-out good", "supported": True}
    file.write_text(sealed(note, file.parent), encoding="utf-8")
    server = Server(folder, tmp_path / "station")
    try:
        with Client(server.url) as client:
            assert client.station()["promise"]["verdict"] in ("unknown", "no sign")
            made = [client.inspect(png(100 + number), lot="L") for number in range(20)]
            assert {part["verdict"] for part in made} == {"reject"}
            wait_until(lambda: client.station()["promise"]["verdict"] == "mostly rejected")
            for part in made[:18]:
                client.decide(part["id"], "pass")
            wait_until(lambda: client.station()["promise"]["verdict"] == "broken")
            found = client.station()["promise"]
            assert (found["parts"], found["rejected"], found["decided_good"], found["promised"]) == (20, 20, 18, 0.05)
        (model,) = httpx.get(f"{server.url}/api/report", params={"lot": "L"}, trust_env=False).json()["models"]
        assert model["promise"] == found
    finally:
        server.stop()
    assert "Traceback" not in server.log.read_text()
