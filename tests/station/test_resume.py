"""A training that a stop, a kill or want of memory interrupts goes on, to the weights it would have had."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from station_helpers import TINY, Server, dataset, picture, png, wait_until

from flawmap.data.images import encode_png
from flawmap.errors import StationError
from flawmap.station.datasets import DataSets
from flawmap.station.settings import LimitSettings
from flawmap.station.training import Trainings

LONGER = [
    *TINY,
    "detect.steps=300",
    "few.steps=300",
    "run.checkpoint_seconds=0",
]  # longer than a station takes to start


def processes(training: str) -> list[int]:
    """Those that work on a training."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(training in word for word in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found


def asking(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60, trust_env=False)


def reaches(http: httpx.Client, path: str, step: int) -> None:
    """Wait until a training has come to a step, while it runs."""

    def there() -> bool:
        found = http.get(path).json()
        assert found["state"] == "running", found
        return bool(found["step"] >= step)

    wait_until(there, 120)


def test_a_training_survives_a_kill_and_a_stop_of_the_station_to_the_same_weights(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    server = Server(tmp_path / "models", tmp_path / "data")
    with asking(server) as http:
        photos = dataset(http, range(100, 112))
        http.post(f"/api/datasets/{photos}/photos", files=[("image", png(1))], params={"kind": "defective"})
        asked = {"dataset": photos, "name": "part", "recipe": "fast", "settings": LONGER}
        ident = http.post("/api/trainings", json=asked).json()["id"]
        path = f"/api/trainings/{ident}"
        reaches(http, path, 20)
        http.post(f"/api/datasets/{photos}/photos", files=[("image", png(112))])  # it learns from those it began with
    server.kill()
    orphans = processes(ident)
    assert orphans
    server = Server(tmp_path / "models", tmp_path / "data")
    with asking(server) as http:
        found = http.get(path).json()
        assert (found["state"], found["resumed"], found["step"] >= 20) == ("running", 1, True), found
        assert http.get("/api/station").json()["training"] == ident
        assert http.post("/api/trainings", json=asked).status_code == 409
        assert not set(processes(ident)) & set(orphans)
        reaches(http, path, 40)
    assert server.stop() == 0
    assert processes(ident) == []
    server = Server(tmp_path / "models", tmp_path / "data")
    with asking(server) as http:
        assert http.get(path).json()["resumed"] == 2
        wait_until(lambda: http.get(path).json()["state"] != "running", 300)
        done = http.get(path).json()
        assert (done["state"], done["why"], done["progress"], done["first"]) == ("done", "", 1.0, 6), done
        added = http.get(f"/api/datasets/{photos}").json()["photos"][-1]["id"]
        http.delete(f"/api/datasets/{photos}/photos/{added}")
        other = http.post("/api/trainings", json=asked).json()["id"]
        wait_until(lambda: http.get(f"/api/trainings/{other}").json()["state"] != "running", 300)
    folder = tmp_path / "data" / "trainings"
    notes = [json.loads((folder / each / "new.bundle" / "bundle.json").read_text()) for each in (ident, other)]
    assert [note["provenance"]["resumed"] for note in notes] == [True, False]
    assert notes[0]["weights_sha256"] == notes[1]["weights_sha256"]
    assert notes[0]["threshold"] == notes[1]["threshold"]
    assert not (folder / ident / "photos").exists()
    assert server.stop() == 0


def test_a_cancelled_training_stays_cancelled_and_leaves_no_checkpoints(models: Path, tmp_path: Path) -> None:
    server = Server(models, tmp_path / "data")
    with asking(server) as http:
        asked = {"dataset": dataset(http, range(100, 112)), "name": "part", "recipe": "fast", "settings": LONGER}
        path = f"/api/trainings/{http.post('/api/trainings', json=asked).json()['id']}"
        reaches(http, path, 20)
        cancelled = http.post(f"{path}/cancel").json()
        assert (cancelled["state"], http.post(f"{path}/cancel").status_code) == ("cancelled", 409)
    server.kill()
    server = Server(models, tmp_path / "data")
    with asking(server) as http:
        found = http.get(path).json()
        assert (found["state"], found["resumed"], found["why"]) == ("cancelled", 0, cancelled["why"])
        assert found["metrics"], "its losses are kept"
        assert http.get("/api/station").json()["training"] is None
    assert processes(found["id"]) == []
    left = {file.name for file in (tmp_path / "data" / "trainings" / found["id"]).rglob("*") if file.is_file()}
    assert left == {"training.json", "log.txt", "metrics.jsonl", "recipe.toml"}
    assert server.stop() == 0


class Stub:
    """In place of what a training that never ends well does not need."""


@pytest.fixture
def trainings(tmp_path: Path) -> Iterator[Trainings]:
    photos = DataSets(tmp_path / "datasets", LimitSettings())
    made = photos.make("part")["id"]
    photos.add(made, "good", "x.png", encode_png(picture(100)))
    opened = Trainings(tmp_path / "trainings", photos, Stub(), Stub())  # type: ignore[arg-type]
    yield opened
    opened.close()


def train(trainings: Trainings, monkeypatch: pytest.MonkeyPatch, program: str) -> dict[str, Any]:
    """A training whose process is a shell program, in the training's folder, and what has become of it."""
    monkeypatch.setattr("flawmap.station.training.GENTLY", ("sh", "-c", program))
    found = trainings.start(trainings.datasets.all()[0]["id"], "part", "fast", [], "anna")
    wait_until(lambda: trainings.get(found["id"])["state"] != "running", 60)
    return trainings.get(found["id"])


def test_a_training_that_is_killed_twice_at_one_place_has_failed(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = train(trainings, monkeypatch, "kill -9 $$")
    assert (found["state"], found["resumed"], trainings.running) == ("failed", 1, None)
    assert "killed 2 times" in found["why"] and "step 0" in found["why"] and "\n" not in found["why"]


def test_a_training_goes_on_as_long_as_it_gets_further(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step more each time up to the third, where it gets no further."""
    step = "mkdir -p new.bundle.run; n=$(cat n || echo 0); [ $n = 3 ] || n=$((n+1)); echo $n > n; "
    line = 'echo "{\\"stage\\": \\"detect\\", \\"step\\": $n}" >> new.bundle.run/metrics.jsonl; kill -9 $$'
    found = train(trainings, monkeypatch, step + line)
    assert (found["state"], found["resumed"], found["step"]) == ("failed", 3, 3), found
    assert "step 3" in found["why"]


def test_a_training_that_says_what_is_wrong_is_not_tried_again(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = train(trainings, monkeypatch, "echo 'flawmap: too few photos' >&2; exit 2")
    assert (found["state"], found["resumed"], found["why"]) == ("failed", 0, "too few photos")


def test_stops_of_the_station_are_not_held_against_a_training(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flawmap.station.training.GENTLY", ("sh", "-c", "sleep 60"))
    ident = trainings.start(trainings.datasets.all()[0]["id"], "part", "fast", [], "anna")["id"]
    for count in range(1, 4):
        trainings.close()
        trainings = Trainings(trainings.folder, trainings.datasets, Stub(), Stub())  # type: ignore[arg-type]
        trainings.go_on()
        assert (trainings.running, trainings.get(ident)["resumed"]) == (ident, count)
    assert trainings.cancel(ident)["state"] == "cancelled"
    wait_until(lambda: trainings.running is None)


def test_a_training_finds_its_photos_where_the_stations_folder_is_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = DataSets(Path("datasets"), LimitSettings())
    photos.add(photos.make("part")["id"], "good", "x.png", encode_png(picture(100)))
    trainings = Trainings(Path("trainings"), photos, Stub(), Stub())  # type: ignore[arg-type]
    found = train(trainings, monkeypatch, 'ls "$4"; exit 2')  # the folder that it learns from
    assert found["why"] == f"{photos.get(found['dataset'])['photos'][0]['id']}.png"


def test_a_comparison_that_the_station_left_can_be_made_again(trainings: Trainings) -> None:
    folder = trainings.folder / ("a" * 32)
    folder.mkdir(parents=True)
    note = {"id": folder.name, "created": "", "state": "done", "comparison": {"state": "running", "done": 3}}
    (folder / "training.json").write_text(json.dumps(note))
    again = Trainings(trainings.folder, trainings.datasets, Stub(), Stub())  # type: ignore[arg-type]
    comparison = again.get(folder.name)["comparison"]
    assert (comparison["state"], comparison["done"]) == ("failed", 3) and "stopped" in comparison["why"]


def test_notes_made_at_once_are_all_kept(trainings: Trainings) -> None:
    folder = trainings.folder / ("b" * 32)
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"id": folder.name, "created": "", "state": "done"}))
    threads = [
        threading.Thread(target=trainings._note, args=(folder.name,), kwargs={f"note{number}": number})
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(trainings.get(folder.name)[f"note{number}"] == number for number in range(20))


def test_a_training_that_cannot_be_started_is_told_and_frees_the_place(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr("flawmap.station.training.GENTLY", ())
    with pytest.raises(StationError) as raised:
        trainings.start(trainings.datasets.all()[0]["id"], "part", "fast", [], "anna")
    assert raised.value.status == 503 and trainings.running is None
    assert [one["state"] for one in trainings.all()] == ["failed"]
