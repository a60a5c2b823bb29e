"""Thresholds, reports, data sets and trainings, at a real station."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from station_helpers import TINY, Server, dataset, picture, png, wait_until

from flawmap.bundle import load_bundle
from flawmap.data.images import decode_image, encode_png
from flawmap.data.surfaces import write_sample_parts
from flawmap.station import checking
from flawmap.station.client import Client
from flawmap.station.results import Query
from flawmap.station.thresholds import Scores


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("station")
    shutil.copytree(models, folder / "models")
    started = Server(folder / "models", folder / "data", "--set", "queue.deadline_s=60")
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log.read_text()


@pytest.fixture(scope="module")
def parts(server: Server) -> list[dict[str, Any]]:
    """Twelve recorded parts, the first six decided as they are, of one lot."""
    with Client(server.url) as client:
        made = [
            client.inspect(png(number), lot="lot 7", label=f"=part {number}")
            for number in (*range(6), *range(100, 106))
        ]
        for number, part in enumerate(made):
            if number in (0, 1, 2, 6, 7, 8):
                client.decide(part["id"], "reject" if number < 6 else "pass", "seen")
        return [client.part(part["id"]) for part in made]


def test_the_histogram_counts_every_score_and_the_curve_tells_escape_and_overkill(
    http: httpx.Client, server: Server, parts: list[dict[str, Any]]
) -> None:
    found = http.get("/api/threshold", params={"bins": 40}).json()
    checked = sum(part["verdict"] == "pass" and part["decision"] is not None for part in parts)
    assert found["counts"].pop("checked_passes") == checked > 0
    assert found["counts"] == {"held_out": 30, "parts": 12, "decided_good": 3, "decided_bad": 3}
    for name, count in found["counts"].items():
        assert sum(found[name]) == count
    assert len(found["edges"]) == len(found["curve"]) == 41
    held_out = np.array(load_bundle(server.models / "part.bundle").provenance["held_out_scores"])
    good = [part["score"] for part in parts if part["decision"] and part["final"] == "pass"]
    bad = [part["score"] for part in parts if part["decision"] and part["final"] == "reject"]
    for entry in found["curve"]:
        line = entry["score"]
        assert entry["overkill_held_out"] == pytest.approx(float((held_out > line).mean()))
        assert entry["overkill_decided"] == pytest.approx(float(np.mean(np.array(good) > line)))
        assert entry["overkill"] == pytest.approx(float((np.append(held_out, good) > line).mean()))
        assert entry["escape"] == pytest.approx(float(np.mean(np.array(bad) <= line))) == entry["escape_decided"]
        assert entry["rejected"] == pytest.approx(np.mean([part["score"] > line for part in parts]))
    at = http.get("/api/threshold/at", params={"score": found["edges"][20]}).json()
    assert at == found["curve"][20]
    assert found["low"] <= found["suggested"]["score"] <= found["high"]
    there = http.get("/api/threshold/at", params={"score": found["suggested"]["score"]}).json()
    least = min(entry["escape"] + entry["overkill"] for entry in found["curve"])
    assert there["escape"] + there["overkill"] <= least + 1e-9


@pytest.mark.parametrize(
    ("bad", "score", "code"), [((0.6, 0.9), 0.5, "halfway"), ((0.35, 0.8, 0.9), 0.3, "least-wrong")]
)
def test_a_suggested_threshold_says_by_a_code_how_it_was_found(bad: tuple[float, ...], score: float, code: str) -> None:
    decided = [(0.4, "pass"), *((one, "reject") for one in bad)]
    results = SimpleNamespace(decided_scores=lambda query, alike: decided)
    station = SimpleNamespace(results=results, models=SimpleNamespace(versions=list))
    version = SimpleNamespace(weights_sha256="", held_out_scores=(0.1, 0.2, 0.3))
    found = Scores(station, version, Query()).suggested()  # type: ignore[arg-type]
    assert found is not None and (found["score"], found["why_code"]) == (pytest.approx(score), code)


def test_parts_around_a_line_are_the_nearest_on_either_side(http: httpx.Client, parts: list[dict[str, Any]]) -> None:
    scores = [part["score"] for part in parts]
    low, high = sorted(set(scores))[2:4]
    found = http.get("/api/threshold/around", params={"score": (low + high) / 2, "count": 3}).json()
    below, above = (sorted(score for score in scores if (score > low) is side) for side in (False, True))
    assert [part["score"] for part in found["below"]] == below[::-1][:3]
    assert [part["score"] for part in found["above"]] == above[:3]


def test_a_threshold_is_a_new_version_of_the_same_weights_and_is_rolled_back(
    http: httpx.Client, server: Server
) -> None:
    before = http.get("/api/models").json()["current"]
    made = http.post("/api/threshold", json={"score": 0.123, "note": "trial"})
    assert made.status_code == 201
    assert (made.json()["threshold"]["score"], made.json()["current"]) == (0.123, True)
    ref = made.json()["ref"]
    changed = load_bundle(server.models / f"{ref}.bundle")
    old = load_bundle(server.models / "part.bundle")
    assert changed.threshold is not None and changed.threshold.score == 0.123
    assert old.threshold is not None and old.threshold.score != 0.123
    assert http.post("/api/parts", content=png(1)).json()["threshold"] == 0.123
    assert http.post("/api/models/rollback").json()["ref"] == before
    assert http.post("/api/threshold", json={"overkill": 0.5, "use": False}).json()["current"] is False
    for wrong in ({}, {"score": 2}, {"score": 0.1, "overkill": 0.1}, {"overkill": 0}, {"score": 0.1, "model": "../x"}):
        answer = http.post("/api/threshold", json=wrong)
        assert answer.status_code in (400, 404) and "\n" not in answer.json()["error"]


def test_a_smallest_place_is_a_new_version_like_a_threshold(http: httpx.Client, server: Server) -> None:
    before = http.get("/api/threshold").json()
    part = http.post("/api/parts", content=png(1)).json()
    made = http.post("/api/threshold", json={"smallest": 700, "note": "dust"})
    assert made.status_code == 201, made.text
    assert (made.json()["smallest"], made.json()["current"]) == (700, True)
    assert (
        made.json()["threshold"]["score"] == before["threshold"]
        and http.get("/api/threshold").json()["smallest"] == 700
    )
    assert made.json()["origin"] == f"smallest place of {before['model']}"
    assert load_bundle(server.models / f"{made.json()['ref']}.bundle").smallest == 700
    again = http.post("/api/parts", content=png(1)).json()
    assert (again["score"], again["verdict"], again["smallest"]) == (part["score"], part["verdict"], 700)
    assert all(region["area"] >= 700 for region in again["regions"])
    both = http.post("/api/threshold", json={"score": 0.2, "smallest": "0.5mm", "mm_per_pixel": 0.05, "use": False})
    assert (both.json()["threshold"]["score"], both.json()["smallest"]) == (0.2, 79)
    assert http.post("/api/models/rollback").json()["smallest"] == before["smallest"]
    count = len(http.get("/api/models").json()["models"])
    for wrong in (
        {"smallest": "wide"}, {"smallest": True}, {"smallest": []}, {"smallest": "1 mm"}, {"smallest": -1},
        {"mm_per_pixel": 0.1}, {"score": 0.1, "mm_per_pixel": 0.1}, {"smallest": 1e12}, {"smallest": "x" * 500},
    ):  # fmt: skip
        answer = http.post("/api/threshold", json=wrong)
        assert answer.status_code in (400, 422) and "\n" not in answer.json()["error"], answer.text
    assert len(http.get("/api/models").json()["models"]) == count, "nothing is left of what was refused"
    assert not list(server.models.glob(".*saving"))


def test_a_report_of_a_lot_has_its_figures(http: httpx.Client, parts: list[dict[str, Any]]) -> None:
    report = http.get("/api/report", params={"lot": "lot 7"}).json()
    verdicts = [part["verdict"] for part in parts]
    overruled = [part for part in parts if part["decision"] and part["decision"]["decision"] == "overrule"]
    assert report["title"] == "Lot lot 7"
    assert report["counts"]["inspected"] == 12 and report["counts"]["decided"] == 6
    assert [report["counts"][name] for name in ("pass", "reject")] == [verdicts.count("pass"), verdicts.count("reject")]
    assert report["counts"]["overruled"] == len(overruled)
    assert report["scores"]["highest"] == max(part["score"] for part in parts)
    assert sum(hour["pass"] + hour["reject"] + hour["doubt"] for hour in report["hours"]) == 12
    assert [(model["ref"], model["parts"]) for model in report["models"]] == [("part@1", 12)]
    rejected = [part for part in parts if part["verdict"] == "reject"]
    assert report["models"][0]["promise"] | {"sentence": ""} == {
        "parts": 12,
        "rejected": len(rejected),
        "decided_good": sum(part["decision"] is not None and part["final"] == "pass" for part in rejected),
        "escaped": sum(part["verdict"] == "pass" and part["final"] == "reject" for part in parts),
        "promised": 0.5,
        "verdict": "no sign",
        "sentence": "",
    }
    shown = {part["id"] for part in report["parts"]}
    assert shown == {part["id"] for part in parts if part["verdict"] == "reject"} | {part["id"] for part in overruled}
    assert report["chain"]["first_seq"] == parts[0]["seq"]
    assert http.get("/api/report").json()["counts"]["inspected"] >= 12
    assert http.get("/api/report", params={"from": "2001-01-01T00:00Z", "to": "2001-01-02T00:00Z"}).json()[
        "shares"
    ] == {
        "reject": None,
        "overruled": None,
    }


def test_a_report_has_the_changes_of_models_within_it_and_what_it_began_with(http: httpx.Client) -> None:
    def change() -> str:
        return str(http.post("/api/threshold", json={"score": 0.2}).json()["ref"])

    def inspect() -> None:
        assert http.post("/api/parts", params={"lot": "lot 9"}, content=png(1)).status_code == 201

    before = [http.get("/api/models").json()["current"], change()]
    inspect()
    between = change()
    inspect()
    after = change()
    report = http.get("/api/report", params={"lot": "lot 9"}).json()
    assert report["began_with"]["ref"] == before[1]
    assert [(one["action"], one["ref"]) for one in report["changes"]] == [("add", between), ("use", between)]
    assert [model["ref"] for model in report["models"]] == [before[1], between]
    period = {"from": report["models"][1]["first"]}  # from the second part on
    later = http.get("/api/report", params=period).json()
    assert later["began_with"]["ref"] == between
    assert [one["ref"] for one in later["changes"]] == [after, after]
    empty = http.get("/api/report", params={"lot": "nobody's"}).json()
    assert (empty["began_with"], empty["changes"]) == (None, [])
    for ref in (between, before[1], before[0]):
        assert http.post("/api/models/rollback").json()["ref"] == ref


def test_records_come_as_csv_that_a_spreadsheet_does_not_run(http: httpx.Client, parts: list[dict[str, Any]]) -> None:
    answer = http.get("/api/records.csv", params={"lot": "lot 7"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["id"] for row in rows] == [part["id"] for part in parts]
    assert [float(row["score"]) for row in rows] == [part["score"] for part in parts]
    assert rows[0]["label"] == "'=part 0" and rows[0]["decided_by"] == "local"
    german = {"lot": "lot 7", "language": "de"}
    for asked in (
        http.get("/api/records.csv", params=german),
        http.get("/api/records.csv", params={"lot": "lot 7"}, headers={"Accept-Language": "de-DE,de;q=0.9,en;q=0.8"}),
    ):
        text = asked.content.decode("utf-8")
        assert text[0] == "\ufeff"
        rows = list(csv.DictReader(io.StringIO(text[1:]), delimiter=";"))
        assert [row["score"].replace(",", ".") for row in rows] == [repr(part["score"]) for part in parts]
        assert all("," in row["score"] or "e" in row["score"] for row in rows) and rows[0]["label"] == "'=part 0"


def test_report_and_csv_of_a_period_begin_with_its_first_moment_and_end_before_its_last(
    http: httpx.Client, parts: list[dict[str, Any]]
) -> None:
    period = {"from": parts[2]["time"], "to": parts[9]["time"]}
    chosen = parts[2:9]
    report = http.get("/api/report", params=period).json()
    assert (report["from"], report["to"], report["lot"]) == (period["from"], period["to"], None)
    minutes = [time[:16].replace("T", " ") for time in period.values()]
    assert report["title"] == f"{minutes[0]} to {minutes[1]} UTC"
    assert (report["chain"]["first_seq"], report["chain"]["last_seq"]) == (chosen[0]["seq"], chosen[-1]["seq"])
    counts = report["counts"]
    assert counts["inspected"] == 7
    for verdict in ("pass", "reject"):
        assert counts[verdict] == sum(part["verdict"] == verdict for part in chosen)
        assert counts[f"final_{verdict}"] == sum(part["final"] == verdict for part in chosen)
    assert counts["decided"] == sum(part["decision"] is not None for part in chosen)
    assert report["shares"]["reject"] == pytest.approx(counts["reject"] / 7)
    scores = [part["score"] for part in chosen]
    assert (report["scores"]["median"], report["scores"]["highest"]) == (pytest.approx(np.median(scores)), max(scores))
    rows = list(csv.DictReader(io.StringIO(http.get("/api/records.csv", params=period).text)))
    assert [row["id"] for row in rows] == [part["id"] for part in chosen]
    assert [row["final"] for row in rows] == [part["final"] for part in chosen]
    both = period | {"lot": "lot 8"}
    assert http.get("/api/report", params=both).json()["counts"]["inspected"] == 0
    assert len(http.get("/api/records.csv", params=both).text.splitlines()) == 1
    open_end = http.get("/api/report", params={"from": parts[9]["time"], "lot": "lot 7"}).json()
    assert open_end["counts"]["inspected"] == 3
    for path in ("/api/report", "/api/records.csv"):
        for wrong in ({"from": "yesterday"}, {"to": "2026-11-26"}, {"lot": "x" * 101}):
            assert http.get(path, params=wrong).status_code == 400


def test_what_is_wrong_with_photos_is_found(http: httpx.Client) -> None:
    ident = dataset(http, range(100, 124))
    blurred = np.repeat(np.full((64, 80, 1), 120, np.uint8), 3, 2)
    dark = (picture(130) // 8).astype(np.uint8)
    odd = {
        "twice.png": png(100), "small.png": png(131, 60, 70), "flat.png": encode_png(blurred),
        "dark.png": encode_png(dark), "spot.png": png(3),
    }  # fmt: skip
    files = [("image", (name, data, "image/png")) for name, data in odd.items()]
    files += [("image", ("../../text.txt", b"no image", "text/plain")), ("image", ("half.png", png(102)[:-2000]))]
    answer = http.post(f"/api/datasets/{ident}/photos", files=files).json()
    assert [one["name"] for one in answer["added"]] == list(odd)
    none, half = answer["refused"]
    assert none["error"].startswith("not an image")
    assert (half["name"], half["code"], half["error"]) == (
        "half.png", "unreadable", "the image is truncated; copy it again or remove it",
    )  # fmt: skip
    assert http.post(f"/api/datasets/{ident}/check").status_code == 202
    wait_until(lambda: http.get(f"/api/datasets/{ident}").json()["checked"], 120)
    found = http.get(f"/api/datasets/{ident}").json()
    faults = {photo["name"]: {one["kind"] for one in photo["problems"]} for photo in found["photos"]}
    assert "duplicate" in faults["twice.png"] and "size" in faults["small.png"]
    assert "exposure" in faults["dark.png"]
    assert faults["flat.png"] & {"blurred", "outlier", "exposure"}
    assert found["summary"] and found["good"] == 29
    photo = found["photos"][0]
    assert http.get(f"/api/datasets/{ident}/photos/{photo['id']}").content == png(100)
    small = http.get(f"/api/datasets/{ident}/photos/{photo['id']}", params={"thumbnail": True}).content
    assert decode_image(small, "small").shape == (64, 80, 3)
    assert http.delete(f"/api/datasets/{ident}/photos/{photo['id']}").status_code == 204
    assert http.get(f"/api/datasets/{ident}").json()["good"] == 28
    assert http.delete(f"/api/datasets/{ident}").status_code == 204
    for path in (ident, "..", "%2e%2e", "0" * 32):
        assert http.get(f"/api/datasets/{path}").status_code in (404, 405)


def test_a_training_is_watched_compared_and_promoted(
    http: httpx.Client, server: Server, parts: list[dict[str, Any]]
) -> None:
    ident = dataset(http, range(100, 112))
    files = [("image", ("bad.png", png(1), "image/png"))]
    http.post(f"/api/datasets/{ident}/photos", files=files, params={"kind": "defective"})
    settings = [*TINY, "threshold.smallest_found=true"]
    asked = {"dataset": ident, "name": "part", "recipe": "fast", "settings": settings}
    training = http.post("/api/trainings", json=asked)
    assert training.status_code == 202, training.text
    assert (training.json()["size"], training.json()["smallest"]) == (None, None)
    path = f"/api/trainings/{training.json()['id']}"
    assert http.post("/api/trainings", json=asked).status_code == 409
    assert http.delete(f"/api/datasets/{ident}").status_code == 409
    assert http.post(f"{path}/promote").status_code == 409
    assert http.get("/api/station").json()["training"] == training.json()["id"]
    wait_until(lambda: http.get(path).json()["state"] != "running", 300)
    done = http.get(path).json()
    assert (done["state"], done["why"]) == ("done", ""), done
    assert done["progress"] == 1.0 and done["threshold"] is not None and done["metrics"]
    assert done["size"] == {"photo": [64, 80], "network": [64, 80]}
    assert done["smallest"]["contrast"] == 0.2 and 4 <= done["smallest"]["photos"] <= 12
    assert done["smallest"]["threshold"] == done["threshold"]["score"]
    assert done["first"] == 6
    assert decode_image(http.get(f"{path}/first/0").content, "first").shape == (64, 80, 3)
    assert http.post(f"{path}/compare", json={"parts": 12}).status_code == 202
    wait_until(lambda: http.get(path).json()["comparison"]["state"] != "running", 120)
    compared = http.get(path).json()["comparison"]
    assert compared["state"] == "done", compared
    assert compared["agree"] + compared["changed"] == compared["total"] == 12
    assert compared["decided"] == 6 and compared["against"] == http.get("/api/models").json()["current"]
    version = http.post(f"{path}/promote", json={"note": "better"}).json()
    assert version["current"] and version["name"] == "part" and version["origin"].startswith("training ")
    assert http.post("/api/parts", content=png(1)).json()["model"]["ref"] == version["ref"]
    assert http.post("/api/models/rollback").status_code == 200


def test_photos_of_a_texture_are_not_called_moved(tmp_path: Path) -> None:
    write_sample_parts(tmp_path / "parts", "brushed-metal", 96, 24, 0, 0, 0)
    words = [sys.executable, "-m", checking.__name__, str(tmp_path / "parts" / "train" / "good")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "moved" not in done.stdout


def test_a_training_is_cancelled_and_what_it_may_not_do_is_refused(http: httpx.Client) -> None:
    ident = dataset(http, range(100, 112))
    asked: dict[str, Any] = {"dataset": ident, "name": "part", "recipe": "fast", "settings": []}
    for wrong in (
        {"recipe": "/etc/passwd"}, {"recipe": "../x"}, {"settings": ["image.ignore=x.png"]}, {"dataset": "../x"},
        {"settings": ["model.prior=x"]}, {"settings": ["detect.steps=/etc/passwd"]}, {"settings": ["nonsense"]},
        {"settings": ["detect.none=1"]}, {"name": "../x"}, {"name": "a@2"}, {"name": ".x"},
    ):  # fmt: skip
        answer = http.post("/api/trainings", json=asked | wrong)
        assert answer.status_code in (400, 404), wrong
        assert "\n" not in answer.json()["error"] and "docs/" not in answer.json()["error"]
    for setting, code, values in (
        ("detect.none=1", "no-setting", {"setting": "detect.none"}),
        ("detect.steps=-1", "setting-value", {
            "setting": "detect.steps", "why": "Input should be greater than or equal to 1",
        }),
    ):  # fmt: skip
        answer = http.post("/api/trainings", json=asked | {"settings": [setting]}).json()
        assert (answer["code"], answer["values"]) == (code, values)
    training = http.post("/api/trainings", json=asked | {"settings": ["run.threads=1"]}).json()
    cancelled = http.post(f"/api/trainings/{training['id']}/cancel").json()
    assert cancelled["state"] == "cancelled"
    wait_until(lambda: http.get("/api/station").json()["training"] is None)
    assert http.get(f"/api/trainings/{training['id']}").json()["state"] == "cancelled"
    few = dataset(http, range(100, 101))
    failed = http.post("/api/trainings", json=asked | {"dataset": few}).json()
    wait_until(lambda: http.get(f"/api/trainings/{failed['id']}").json()["state"] == "failed", 120)
    assert "too few" in http.get(f"/api/trainings/{failed['id']}").json()["why"]


def test_a_photo_that_breaks_after_it_came_is_told_by_the_name_it_came_with(http: httpx.Client, server: Server) -> None:
    ident = dataset(http, range(100, 112))
    photo = next(one for one in http.get(f"/api/datasets/{ident}").json()["photos"] if one["name"] == "105.png")
    file = server.data / "datasets" / ident / "good" / f"{photo['id']}.png"
    file.write_bytes(file.read_bytes()[:-2000])
    asked = {"dataset": ident, "name": "part", "recipe": "fast", "settings": TINY}
    path = f"/api/trainings/{http.post('/api/trainings', json=asked).json()['id']}"
    wait_until(lambda: http.get(path).json()["state"] == "failed", 120)
    assert http.get(path).json()["why"] == "105.png: the image is truncated; copy it again or remove it"


def test_recipes_that_train_no_inspector_are_neither_offered_nor_taken(http: httpx.Client) -> None:
    assert [one["name"] for one in http.get("/api/recipes").json()["recipes"]] == ["accurate", "demo", "fast", "paper"]
    ident = dataset(http, range(100, 112))
    for recipe in ("general", "lean"):
        answer = http.post("/api/trainings", json={"dataset": ident, "name": "part", "recipe": recipe})
        assert answer.status_code == 400
        assert answer.json()["error"] == (
            f"the recipe '{recipe}' is for `flawmap pretrain` and gives no model; "
            "there are: accurate, demo, fast, paper"
        )
    assert http.get("/api/station").json()["training"] is None
