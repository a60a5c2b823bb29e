from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import sqlalchemy as sa
from station_helpers import Server, picture, png, wait_until, workers_of

import flawmap
from flawmap.data.images import decode_image, encode_jpeg, encode_png
from flawmap.errors import StationError
from flawmap.station import routes, schemas
from flawmap.station.access import LOCAL, add_token, revoke_token
from flawmap.station.audit import audit
from flawmap.station.client import Client
from flawmap.station.record import Record, records


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A station without tokens, which the tests of this module share."""
    folder = tmp_path_factory.mktemp("station")
    shutil.copytree(models, folder / "models")
    limits = ["limits.bytes=200000", "limits.pixels=100000", "limits.batch=6", "queue.size=8", "drift.every=1"]
    started = Server(folder / "models", folder / "data", *(word for limit in limits for word in ("--set", limit)))
    yield started
    assert started.stop() == 0
    assert "Traceback" not in started.log.read_text()


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.url) as opened:
        yield opened


def post(http: httpx.Client, data: bytes, path: str = "/api/parts", **query: Any) -> httpx.Response:
    return http.post(path, content=data, params=query, headers={"Content-Type": "image/png"})


def refused(answer: httpx.Response, status: int) -> str:
    """The one line with which a request is refused."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) - {"code", "values"} == {"error"}
    assert "\n" not in answer.json()["error"]
    return str(answer.json()["error"])


def test_a_posted_image_gets_the_verdict_of_the_inspector(http: httpx.Client, server: Server) -> None:
    inspector = flawmap.load(server.models / "part.bundle", "cpu")
    for number in (0, 100):
        expected = inspector.inspect(picture(number))
        part = post(http, png(number), label="4711", lot="A17", camera="cam-1").json()
        schemas.Part.model_validate_json(json.dumps(part))
        assert part["score"] == pytest.approx(expected.score, abs=1e-6)
        assert part["verdict"] == ("reject" if expected.defective else "pass") == part["final"]
        assert part["p_value"] == expected.p_value
        assert (part["model"]["ref"], part["label"], part["lot"], part["camera"]) == ("part@1", "4711", "A17", "cam-1")
        assert (part["image"]["width"], part["image"]["height"], part["image"]["kind"]) == (80, 64, "png")


def test_a_form_and_a_raw_body_are_the_same(http: httpx.Client) -> None:
    raw = post(http, png(3)).json()
    form = http.post("/api/parts", files={"image": ("any name.txt", png(3), "text/plain")}).json()
    assert (raw["score"], raw["image"]["sha256"]) == (form["score"], form["image"]["sha256"])
    assert raw["id"] != form["id"]


def test_a_batch_is_answered_in_order_with_what_is_wrong_in_its_place(http: httpx.Client) -> None:
    images = [png(1), b"no image", png(2)]
    files = [("image", (f"{number}.png", data)) for number, data in enumerate(images)]
    answer = http.post("/api/parts/batch", files=files, params={"lot": "B"})
    first, second, third = answer.json()["parts"]
    assert first["score"] == post(http, png(1)).json()["score"] and third["lot"] == "B"
    assert (second["status"], second["name"]) == (415, "1.png")
    refused(http.post("/api/parts/batch", files=[("image", png(1))] * 7), 400)
    refused(http.post("/api/parts/batch", files={"other": b"x"}), 400)


def test_with_the_usual_workers_a_batch_is_answered_too(models: Path, tmp_path: Path) -> None:
    server = Server(models, tmp_path / "data", "--set", "workers.count=0")
    try:
        with Client(server.url, timeout=60) as client:
            found = client.inspect_batch([png(number) for number in range(5)])
        assert [part["verdict"] in ("pass", "reject") for part in found] == [True] * 5
        assert len(workers_of(server)) == min(len(os.sched_getaffinity(0)), 4)
    finally:
        server.kill()


def test_pictures_are_linked(http: httpx.Client) -> None:
    part = post(http, png(0)).json()
    links = part["links"]
    assert http.get(links["original"]).content == png(0)
    found = decode_image(http.get(links["map"]).content, "map")
    assert found.shape == (64, 80, 3)
    for name, kind in (("overlay", "jpeg"), ("heat", "png"), ("thumbnail", "jpeg"), ("original", "png")):
        answer = http.get(links[name])
        assert (answer.status_code, answer.headers["content-type"]) == (200, f"image/{kind}")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert decode_image(answer.content, name).shape[:2] == (64, 80)
    assert http.get(links["self"]).json() | {"unlike": []} == part, "but for what is measured once it was answered"


def test_results_are_found_by_time_verdict_lot_and_page(http: httpx.Client) -> None:
    made = [post(http, png(number), lot="paged").json() for number in (0, 100, 1, 101, 2)]
    ids = [part["id"] for part in made]
    found: list[str] = []
    after: dict[str, Any] = {}
    while after is not None:
        page = http.get("/api/parts", params={"lot": "paged", "limit": 2, **after}).json()
        schemas.Parts.model_validate_json(json.dumps(page))
        found += [part["id"] for part in page["parts"]]
        after = None if page["next"] is None else {"after": page["next"]}  # type: ignore[assignment]
    assert found == ids[::-1]
    for verdict in ("pass", "reject"):
        page = http.get("/api/parts", params={"lot": "paged", "verdict": verdict, "order": "oldest"}).json()
        assert [part["id"] for part in page["parts"]] == [part["id"] for part in made if part["verdict"] == verdict]
    since, to = made[1]["time"], made[3]["time"]
    page = http.get("/api/parts", params={"lot": "paged", "from": since, "to": to, "order": "oldest"}).json()
    assert [part["id"] for part in page["parts"]] == ids[1:3]
    page = http.get("/api/parts", params={"lot": "paged", "min_score": made[0]["score"]}).json()
    assert ids[0] in [part["id"] for part in page["parts"]]
    for name, value in {"verdict": "good", "from": "yesterday", "limit": 0, "after": "x", "to": "2026-01-01"}.items():
        refused(http.get("/api/parts", params={name: value}), 400)


def test_a_decision_is_a_record_of_its_own(http: httpx.Client, server: Server) -> None:
    part = post(http, png(0)).json()
    path = f"/api/parts/{part['id']}/decisions"
    other = "pass" if part["defective"] else "reject"
    decided = http.post(path, json={"verdict": other, "note": "dust"}).json()
    assert (decided["verdict"], decided["final"], decided["hash"]) == (part["verdict"], other, part["hash"])
    assert decided["decision"]["decision"] == "overrule" and decided["decision"]["who"] == "local"
    again = http.post(path, json={"verdict": part["verdict"]}).json()
    assert [one["decision"] for one in again["decisions"]] == ["overrule", "confirm"]
    assert http.get("/api/parts", params={"decided": True, "limit": 1}).json()["parts"][0]["id"] == part["id"]
    open_ = http.post(path, json={"verdict": None}).json()
    assert [one["decision"] for one in open_["decisions"]] == ["overrule", "confirm", "withdraw"]
    assert (open_["decision"], open_["final"]) == (None, part["verdict"])
    newest = {"decided": False, "limit": 1}
    assert http.get("/api/parts", params=newest).json()["parts"][0]["id"] == part["id"]
    assert "nothing to take back" in refused(http.post(path, json={"verdict": None}), 409)
    refused(http.post(path, json={"verdict": "doubt"}), 400)
    refused(http.post(f"/api/parts/{'0' * 32}/decisions", json={"verdict": "pass"}), 404)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"no image", 415),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 50, 415),
        (png(1)[:-30], 422),
        (encode_png(np.zeros((400, 400, 3), np.uint8)), 413),
        (b"x" * 300_000, 413),
        (b"x" * 3_000_000, 413),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415),
        (b"GIF89a" + b"x" * 100, 415),
    ],
    ids=["empty", "text", "damaged", "cut", "pixels", "bytes", "many bytes", "svg", "gif"],
)
def test_what_cannot_be_inspected_is_refused_in_one_line(http: httpx.Client, data: bytes, status: int) -> None:
    refused(post(http, data), status)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/api/parts?after={10**30}", 400),
        (f"/api/events?after={10**30}", 400),
        ("/api/parts?from=0001-01-01T00:00%2B14:00", 400),
        ("/api/parts?min_score=nan", 400),
        ("/api/parts?max_score=-1e400", 400),
        ("/api/parts?lot=%ED%A0%80", 200),
        (f"/api/trainings/{'0' * 32}/first/{10**300}", 400),
        (f"/api/trainings/{'0' * 32}/first/-1", 400),
        (f"/api/datasets/{'0' * 32}/photos/{'a' * 400}", 404),
        ("/api/threshold/at?score=nan", 400),
        (f"/api/threshold?model={'x' * 5000}", 404),
        ("/api/report?from=9999-12-31T23:59:59-14:00", 400),
    ],
)
def test_a_value_out_of_range_is_refused_and_is_no_defect(http: httpx.Client, path: str, status: int) -> None:
    answer = http.get(path)
    assert answer.status_code == status, answer.text
    if status >= 400:
        assert "defect" not in refused(answer, status)


def test_a_note_that_is_no_text_does_not_spoil_the_lists(http: httpx.Client) -> None:
    part = post(http, png(4)).json()
    body = b'{"verdict": "pass", "note": "\\ud800"}'
    answer = http.post(f"/api/parts/{part['id']}/decisions", content=body)
    assert answer.status_code == 400
    assert http.get("/api/parts").status_code == 200


@pytest.mark.parametrize("name", ["original", "photo", "map", "overlay", "heat", "thumbnail"])
def test_a_picture_that_goes_while_it_is_asked_for_is_told_as_gone(tmp_path: Path, name: Any) -> None:
    file = tmp_path / "gone.png"  # thinned out between a look at it and its reading
    pictures = SimpleNamespace(original=lambda ident: file, map=lambda ident: file)
    part = {"by": "anna", "image": {"height": 4, "width": 4}, "regions": [], "model": {"ref": "part@1"}}
    models, results = SimpleNamespace(white_of=lambda ref: None), SimpleNamespace(part=lambda ident: part)
    station: Any = SimpleNamespace(pictures=pictures, results=results, models=models)
    with pytest.raises(StationError) as raised:
        routes.picture(station, LOCAL, "0" * 32, name)
    assert raised.value.status == 410


def test_type_is_told_by_content_not_by_name(http: httpx.Client) -> None:
    jpeg = encode_jpeg(picture(1))
    answer = http.post("/api/parts", files={"image": ("part.png", jpeg, "image/png")})
    assert answer.json()["image"]["kind"] == "jpeg"
    assert http.get(answer.json()["links"]["original"]).headers["content-type"] == "image/jpeg"


@pytest.mark.parametrize(
    "path",
    [
        "/api/parts/..%2f..%2f..%2fetc%2fpasswd",
        "/api/parts/..%2f..%2f..%2fetc%2fpasswd/original",
        "/api/parts/%2e%2e/%2e%2e/record.sqlite",
        "/api/parts/../../record.sqlite",
        "/api/parts/" + "a" * 31 + "%00/original",
        "/api/parts/" + "0" * 32 + "/..%2frecord.sqlite",
        "/..%2f..%2frecord.sqlite",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/api/models/..%2f..%2fdata/load",
    ],
)
def test_no_path_from_a_request_reaches_the_file_system(server: Server, path: str) -> None:
    import http.client

    host = server.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=60)  # sends a path as it is
    for method in ("GET", "POST", "DELETE"):
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.status in (400, 404, 405), (method, answer.status)
        assert b"root:" not in body and b"SQLite" not in body
    connection.close()


def test_a_name_with_a_path_writes_nothing_elsewhere(http: httpx.Client, server: Server) -> None:
    before = {file for file in server.data.parent.rglob("*") if "pictures" not in file.parts}
    for name in ("../../../evil.png", "/tmp/flawmap-evil.png", "..\\evil.png", "\x00"):
        answer = http.post("/api/parts", files={"image": (name, png(1))}, params={"label": "../../evil"})
        assert answer.status_code == 201
    assert {file for file in server.data.parent.rglob("*") if "pictures" not in file.parts} == before
    assert not Path("/tmp/flawmap-evil.png").exists()


def test_a_full_queue_is_told_at_once_and_a_passed_deadline_too(http: httpx.Client, server: Server) -> None:
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGSTOP)
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(post(http, png(5), deadline=20))) for _ in range(8 + 2)]
    try:
        for thread in threads[:2]:
            thread.start()
        wait_until(lambda: http.get("/api/station").json()["queue"]["running"] == 2)  # the worker holds them
        for thread in threads[2:]:
            thread.start()
        wait_until(lambda: http.get("/api/station").json()["queue"]["waiting"] == 8)
        full = post(http, png(6))
        assert "queue is full" in refused(full, 429)
        assert int(full.headers["retry-after"]) >= 1
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [504] * 10
        assert "seconds" in answers[0].json()["error"]
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_until(lambda: post(http, png(7)).status_code == 201)


def test_a_killed_worker_costs_its_own_requests_alone(http: httpx.Client, server: Server) -> None:
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGSTOP)
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(post(http, png(5), deadline=60))) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_until(lambda: http.get("/api/station").json()["queue"]["waiting"] == 4)
    os.kill(worker, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert sorted(answer.status_code for answer in answers) == [201] * 4 + [503] * 2
    assert workers_of(server) != [worker]
    assert http.get("/readyz").status_code == 200
    assert http.get("/api/station").json()["queue"]["workers_replaced"] == 1


def test_the_same_key_is_recorded_once(client: Client) -> None:
    first = client.inspect(png(8), key="part 8")
    assert client.inspect(png(8), key="part 8") | {"unlike": []} == first
    assert client.inspect(png(8), key="another")["id"] != first["id"]


def test_events_tell_verdicts_decisions_and_switches_and_what_was_missed(client: Client, server: Server) -> None:
    seen: list[tuple[str, Any]] = []

    def read() -> None:
        with Client(server.url) as reader:
            for name, data in reader.events():
                seen.append((name, data))
                if name == "model":
                    return

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: seen)
    assert seen[0][0] == "station"
    schemas.StationState.model_validate_json(json.dumps(seen[0][1]))
    part = client.inspect(png(9))
    decided = client.decide(part["id"], "pass")
    client.set_threshold(score=0.5, note="try")
    thread.join(60)
    told = [(name, data) for name, data in seen if name not in ("station", "unlike")]
    assert [name for name, _ in told] == ["verdict", "decision", "model"]
    assert told[0][1] == part and told[1][1]["part"] | {"unlike": []} == decided | {"unlike": []}
    assert told[2][1]["action"] == "add"
    wait_until(lambda: client.models()["current"] == told[2][1]["ref"])
    missed = []
    for name, data in client.events(after=part["seq"] - 1):
        if name not in ("station", "unlike"):
            missed.append((name, data))
        if len(missed) == 4:
            break
    assert [name for name, _ in missed] == ["verdict", "decision", "model", "model"]
    assert missed[0][1]["id"] == part["id"]
    client.roll_back()


def test_models_are_switched_and_rolled_back_without_dropping_a_request(client: Client, server: Server) -> None:
    start = client.models()["current"]
    stop, parts, faults = threading.Event(), [], []

    def send() -> None:
        with Client(server.url, retries=0) as sender:
            while not stop.is_set():
                try:
                    parts.append(sender.inspect(png(len(parts))))
                except StationError as problem:
                    faults.append(problem)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(parts) > 3)
    made = client.set_threshold(overkill=0.2)
    assert made["threshold"]["overkill"] == 0.2 and made["origin"] == f"threshold of {start}"
    wait_until(lambda: parts[-1]["model"]["ref"] == made["ref"])
    assert client.roll_back()["ref"] == start
    wait_until(lambda: parts[-1]["model"]["ref"] == start)
    stop.set()
    for thread in threads:
        thread.join()
    assert faults == []
    schemas.Models.model_validate_json(json.dumps(client.models()))
    for part in parts:
        version = next(one for one in client.models()["models"] if one["ref"] == part["model"]["ref"])
        assert part["threshold"] == version["threshold"]["score"]


def test_a_model_is_loaded_named_in_a_request_and_let_go(client: Client, http: httpx.Client, server: Server) -> None:
    shutil.copytree(server.models / "part.bundle", server.models / "other.bundle")
    refused(post(http, png(1), model="other"), 409)
    assert http.post("/api/models/other@1/load").json()["loaded"] is True
    assert post(http, png(1), model="other").json()["model"]["ref"] == "other@1"
    assert http.delete("/api/models/other@1/load").status_code == 204
    refused(post(http, png(1), model="other"), 409)
    refused(http.post("/api/models/none@1/load"), 404)
    current = client.models()["current"]
    refused(http.delete(f"/api/models/{current}/load"), 409)


def test_a_bundle_is_listed_while_it_is_copied_and_used_when_it_is_whole(station: Server) -> None:
    whole, half = station.models / "part.bundle", station.models / "part@2.bundle"
    note = (whole / "bundle.json").read_bytes()
    half.mkdir()
    with Client(station.url) as client:
        for size, listed, status in ((0, 1, 404), (len(note) // 2, 1, 404), (len(note), 2, 409)):
            (half / "bundle.json").write_bytes(note[:size])
            assert len(client.models()["models"]) == listed
            with pytest.raises(StationError) as raised:
                client.use("part@2")
            assert (raised.value.status, client.models()["current"]) == (status, "part@1")
        told = client.models()["models"][0]
        assert (told["ref"], told["usable"], told["why_code"]) == ("part@2", False, "incomplete")
        assert "it has no weights.safetensors" in told["why"]
        shutil.copyfile(whole / "recipe.toml", half / "recipe.toml")
        (half / "weights.safetensors").write_bytes((whole / "weights.safetensors").read_bytes()[:9000])
        with pytest.raises(StationError, match=r"weights.safetensors is cut short.*; copy the bundle again") as raised:
            client.use("part@2")
        assert raised.value.code == "incomplete"
        assert client.inspect(png(1))["model"]["ref"] == "part@1"
        shutil.copytree(whole, half, dirs_exist_ok=True)
        assert client.use("part")["ref"] == "part@2"
        assert client.inspect(png(1))["model"]["ref"] == "part@2"


def test_health_metrics_and_drift(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"alive": True}
    assert http.get("/readyz").json() == {"ready": True, "why": "", "why_code": ""}
    post(http, png(100))
    text = http.get("/metrics").text
    for name in ("flawmap_verdicts_total{", "flawmap_inspection_seconds_bucket{", "flawmap_waiting ", "flawmap_drift "):
        assert name in text

    def measured() -> bool:
        post(http, png(0))
        return bool(http.get("/api/station").json()["drift"]["parts"] >= 5)

    wait_until(measured)


def test_every_route_is_in_openapi_and_every_one_is_documented(http: httpx.Client) -> None:
    page = (Path(__file__).parents[2] / "docs" / "station-api.md").read_text(encoding="utf-8")
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method, about in methods.items():
            assert about.get("summary"), (path, method)
        start = path.split("{")[0].rstrip("/")
        assert start in page, path


def test_the_chain_is_whole_and_the_client_tells_what_is_wrong(http: httpx.Client, client: Client) -> None:
    found = http.get("/api/audit").json()
    assert found["whole"] and found["records"] > 0
    with pytest.raises(StationError, match="cannot be reached"), Client("http://127.0.0.1:9", retries=0) as nowhere:
        nowhere.inspect(png(1))
    with pytest.raises(StationError, match="is no address"):
        Client("station:8000", retries=0)
    with pytest.raises(StationError, match="cannot be read"):
        client.inspect("none.png")


def test_other_sites_and_names_are_refused(http: httpx.Client) -> None:
    refused(http.post("/api/models/rollback", headers={"Origin": "http://evil.example"}), 403)
    refused(http.get("/api/station", headers={"Host": "evil.example"}), 403)


@pytest.fixture
def tokens(models: Path, tmp_path: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    """A station with a token of each role, bound to all addresses."""
    shutil.copytree(models, tmp_path / "models")
    (tmp_path / "data").mkdir()
    record = Record(f"sqlite:///{tmp_path / 'data' / 'record.sqlite'}")
    made = {role: add_token(record, f"{role}-1", role) for role in ("camera", "operator", "engineer")}
    record.close()
    limits = ["--set", "limits.rate=0.001", "--set", "limits.burst=5", "--set", "limits.failures=3"]
    server = Server(tmp_path / "models", tmp_path / "data", *limits, host="0.0.0.0")
    yield server, made
    assert server.stop() == 0


def test_roles_rates_sessions_and_secrets(tokens: tuple[Server, dict[str, str]]) -> None:
    server, made = tokens
    clients = {role: Client(server.url, token, retries=0) for role, token in made.items()}
    clients["nobody"] = Client(server.url, retries=0)
    clients["impostor"] = Client(server.url, "fm-00000000-wrong", retries=0)
    part = clients["camera"].inspect(png(1))
    assert part["by"] == part["camera"] == "camera-1"
    assert clients["camera"].part(part["id"])["id"] == part["id"]
    other = clients["operator"].inspect(png(2))
    for refused_to, action in (
        (403, lambda: clients["camera"].models()),
        (403, lambda: list(clients["camera"].parts())),
        (404, lambda: clients["camera"].part(other["id"])),
        (403, lambda: clients["camera"].decide(part["id"], "pass")),
        (403, lambda: clients["operator"].set_threshold(0.5)),
        (403, lambda: clients["operator"].use("part@1")),
        (401, lambda: clients["nobody"].station()),
        (401, lambda: clients["impostor"].station()),
    ):
        with pytest.raises(StationError) as raised:
            action()  # type: ignore[no-untyped-call]
        assert raised.value.status == refused_to
    assert clients["operator"].decide(part["id"], "reject")["decision"]["who"] == "operator-1"
    assert clients["engineer"].use("part@1")["current"]

    for _ in range(4):
        clients["camera"].inspect(png(1))
    with pytest.raises(StationError, match="images a second") as raised:
        clients["camera"].inspect(png(1))
    assert raised.value.status == 429 and raised.value.retry_after > 0

    with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as browser:
        assert browser.get("/api/session").status_code == 401
        answer = browser.post("/api/session", json={"token": made["operator"]})
        assert answer.json() == {"name": "operator-1", "role": "operator", "access": True}
        assert (
            "httponly" in answer.headers["set-cookie"].lower()
            and "samesite=strict" in answer.headers["set-cookie"].lower()
        )
        assert browser.get(part["links"]["overlay"]).status_code == 200
        assert browser.get("/api/parts").status_code == 200
        assert browser.delete("/api/session").status_code == 204
        assert browser.get("/api/session").status_code == 401
        for _ in range(3):
            last = browser.post("/api/session", json={"token": "fm-00000000-wrong"})
        assert last.status_code == 429

    record = Record(f"sqlite:///{server.data / 'record.sqlite'}")
    revoke_token(record, "operator-1")
    record.close()

    def is_refused() -> bool:
        try:
            clients["operator"].station()
        except StationError as problem:
            return problem.status in (401, 429)
        return False

    wait_until(is_refused)
    for client in clients.values():
        client.close()
    text = server.log.read_text()
    for token in made.values():
        assert token not in text and token.split("-", 2)[2] not in text


def test_without_tokens_other_machines_are_not_served(models: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flawmap import cli

    words = ["serve", "--models", str(models), "--data", str(tmp_path / "data"), "--host", "0.0.0.0", "--port", "0"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2
    assert "flawmap token add" in result.stderr.splitlines()[-1]


def test_two_stations_do_not_share_a_record(server: Server) -> None:
    from typer.testing import CliRunner

    from flawmap import cli

    words = ["serve", "--models", str(server.models), "--data", str(server.data), "--port", "0"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 2 and "another station works with" in result.stderr


def test_sigterm_finishes_what_was_taken(models: Path, tmp_path: Path) -> None:
    server = Server(models, tmp_path / "data", "--set", "queue.drain_s=60")
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGSTOP)
    answers: list[httpx.Response] = []

    def send(number: int) -> None:
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as http:
            answers.append(post(http, png(number), deadline=50))

    watching = Client(server.url)
    reader = watching.events()
    assert next(reader)[0] == "station"
    threads = [threading.Thread(target=send, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    with Client(server.url) as client:
        wait_until(lambda: client.station()["queue"]["waiting"] == 4)
        server.process.terminate()
        assert [name for name, _ in reader if name != "station"] == []  # it ends
        wait_until(lambda: not client.ready())
    watching.close()
    os.kill(worker, signal.SIGCONT)
    for thread in threads:
        thread.join()
    assert server.process.wait(60) == 0
    assert [answer.status_code for answer in answers] == [201] * 6
    record = Record(f"sqlite:///{server.data / 'record.sqlite'}")
    assert audit(record).whole
    with record.reading() as connection:
        kinds = list(connection.execute(sa.select(records.c.kind)).scalars())
    assert kinds.count("verdict") == 6 and set(kinds) <= {"model", "verdict", "unlike"}
    record.close()
