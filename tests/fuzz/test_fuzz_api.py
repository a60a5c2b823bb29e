"""Damaged requests to a station, in this process, with a real record: an answer, or a refusal of one line, never a 500.

Workers are left out: what they find is given, and no training is begun.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import httpx
import numpy as np
import pytest
from mutations import NUMBERS, WORDS, changed_bytes, changed_text, changed_value, held_to_bounds, mutations
from station_helpers import png, run_async

from flawmap.station import web
from flawmap.station.settings import StationSettings
from flawmap.station.station import Station

JSON = "application/json"
BOUNDARY = "b0undary"
PLACES = ["{part}", "{dataset}", "{training}", "part@1", "0" * 32]
BODIES: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/api/threshold", {"score": 0.5, "use": False, "note": "why", "model": "part"}),
    ("POST", "/api/threshold", {"overkill": 0.05, "use": False}),
    ("POST", "/api/parts/{part}/decisions", {"verdict": "reject", "note": "a scratch"}),
    ("POST", "/api/parts/{part}/decisions", {"verdict": None}),
    ("POST", "/api/datasets", {"name": "Blech"}),
    ("POST", "/api/trainings", {"dataset": "{dataset}", "name": "part", "recipe": "fast", "settings": ["run.seed=3"]}),
    ("POST", "/api/trainings/{training}/compare", {"parts": 10, "decided_only": False}),
    ("POST", "/api/trainings/{training}/promote", {"use": False, "note": "x"}),
    ("POST", "/api/session", {"token": "x"}),
    ("POST", "/api/test", {"on": False, "verdicts": True, "note": "x"}),
    ("POST", "/api/models/part@1/use", {"note": "x"}),
    ("POST", "/api/models/rollback", {"note": "x"}),
]
QUESTIONS: list[tuple[str, dict[str, str]]] = [
    ("/api/parts", {
        "verdict": "pass,reject", "final": "pass", "decided": "true", "from": "2026-01-01", "to": "2026-12-01T10:00Z",
        "model": "part", "lot": "7", "camera": "c", "label": "x", "label_begins": "x", "seq": "3", "min_score": "0.1",
        "max_score": "0.9", "order": "oldest", "limit": "10", "after": "0", "count": "true", "test": "false",
    }),
    ("/api/parts/{part}", {}), ("/api/parts/{part}/photo", {"outlines": "true", "drawn": "1"}),
    ("/api/parts/{part}/overlay", {}), ("/api/parts/{part}/heat", {}), ("/api/station", {}), ("/api/models", {}),
    ("/api/threshold", {"model": "part@1", "from": "2026-01-01", "to": "2027-01-01", "bins": "20"}),
    ("/api/threshold/at", {"score": "0.4", "model": "part"}),
    ("/api/threshold/around", {"score": "0.4", "count": "3", "model": "part"}),
    ("/api/report", {"from": "2026-01-01", "to": "2027-01-01", "lot": "7", "model": "part"}),
    ("/api/records.csv", {"from": "2026-01-01T00:00:00+02:00", "lot": "7", "language": "de"}),
    ("/api/audit", {"head": "0" * 64}), ("/api/datasets", {}), ("/api/datasets/{dataset}", {}), ("/api/recipes", {}),
    ("/api/trainings", {}), ("/api/trainings/{training}", {}), ("/api/trainings/{training}/first/0", {}),
    ("/api/session", {}), ("/metrics", {}), ("/readyz", {}), ("/index.html", {}), ("/openapi.json", {}),
]  # fmt: skip
HEADERS = {
    "Content-Type": JSON, "Idempotency-Key": "k1", "Authorization": "Bearer x", "Cookie": "flawmap=x; a=b",
    "Origin": "http://127.0.0.1", "Host": "127.0.0.1", "Content-Length": "5", "Accept-Language": "de-DE,de;q=0.9",
    "Range": "bytes=0-5", "If-None-Match": '"x"', "Content-Encoding": "gzip", "Transfer-Encoding": "chunked",
    "Expect": "100-continue", "X-Forwarded-For": "10.0.0.1", "Connection": "close",
}  # fmt: skip


class Asked:
    """A request: method, path, query, headers, body."""

    def __init__(self, method: str, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> None:
        self.method, self.path, self.query, self.headers, self.body = method, path, query, headers, body

    def __repr__(self) -> str:
        """For the line of a failure."""
        return (
            f"{self.method} {self.path[:200]}?{urlencode(self.query)[:300]} {self.headers!r:.400} {self.body[:300]!r}"
        )


class Service:
    """A station without workers, asked in this process."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        shutil.copytree(bundle, folder / "models" / "part.bundle")
        self.station = station = Station(folder / "models", folder / "data", None, StationSettings())
        loaded: Future[None] = Future()
        loaded.set_result(None)
        station.pool.load = lambda ref, path: loaded  # type: ignore[method-assign]
        station.pool.unload = lambda ref: None  # type: ignore[method-assign]
        station.pool.holds = lambda ref: True  # type: ignore[method-assign]
        station.trainings._launch = lambda ident, resume=False: None  # type: ignore[method-assign]
        station.datasets._figures = lambda ident: []  # type: ignore[method-assign]
        station.datasets.suspect = lambda name, data: None
        station._queued = self._queued  # type: ignore[assignment]
        station._found = self._found  # type: ignore[assignment]
        station.models.use("part@1", "test")
        self.app, self.count = web.create_app(station), 0
        image = png(1)
        made = self.ask(Asked("POST", "/api/parts", {"lot": "7", "label": "x", "camera": "c"}, {}, image))
        assert made.status_code == 201, made.text
        dataset = self.ask(Asked("POST", "/api/datasets", {}, {"Content-Type": JSON}, b'{"name": "Blech"}')).json()
        self.known = {"{part}": made.json()["id"], "{dataset}": dataset["id"], "{training}": "0" * 32}
        form = self.ask(Asked("POST", f"/api/datasets/{dataset['id']}/photos", {}, *multipart([image])))
        assert form.status_code == 200 and len(form.json()["added"]) == 1, form.text

    async def _queued(self, *given: Any) -> Any:
        self.count += 1
        return SimpleNamespace(task=SimpleNamespace(number=self.count))

    async def _found(self, *given: Any) -> Any:
        buffer = io.BytesIO()
        from PIL import Image

        Image.fromarray(np.zeros((8, 8), np.uint16)).save(buffer, "PNG")
        return SimpleNamespace(
            score=0.4, threshold=0.31, defective=True, p_value=0.1, good_parts=3, smallest=0, regions=[], width=80,
            height=64, map_png=buffer.getvalue(), seconds=0.1, remarks=(),
        )  # fmt: skip

    def ask(self, asked: Asked) -> httpx.Response:
        async def answered() -> httpx.Response:
            self.station.hub.attach(asyncio.get_running_loop())
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=("127.0.0.1", 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                headers = [(name.encode(), value.encode("utf-8", "replace")) for name, value in asked.headers.items()]
                return await http.request(
                    asked.method, asked.path, params=asked.query or None, headers=headers, content=asked.body
                )

        return run_async(answered())


def multipart(images: list[bytes], more: str = "") -> tuple[dict[str, str], bytes]:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{number}.png"\r\n'
        f"Content-Type: image/png\r\n\r\n".encode()
        + image
        for number, image in enumerate(images)
    ]
    body = b"\r\n".join([*parts, f"--{BOUNDARY}--\r\n{more}".encode()])
    return {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body


@pytest.fixture(scope="module")
def service(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(whole, tmp_path_factory.mktemp("station"))
    yield made
    run_async(made.station.settle())
    made.station.close()


def odd(chance: random.Random) -> str:
    return chance.choice([chance.choice(WORDS), chance.choice(NUMBERS)])[:2000]


def filled(text: str, service: Service) -> str:
    for name, value in service.known.items():
        text = text.replace(name, value)
    return text


def changed(asked: Asked, chance: random.Random) -> Asked:
    """The request with its query, its path or its headers changed."""
    for _ in range(chance.randrange(3)):
        way = chance.randrange(5)
        if way == 0 and asked.query:
            asked.query[chance.choice([*asked.query])] = odd(chance)
        elif way == 1:
            asked.query[odd(chance)[:50]] = odd(chance)
        elif way == 2:
            names = asked.path.split("/")
            names[chance.randrange(1, len(names))] = chance.choice([odd(chance)[:300], *PLACES])
            asked.path = "/".join(names)
        elif way == 3:
            name = chance.choice([*HEADERS])
            asked.headers[name] = chance.choice(
                [HEADERS[name], odd(chance), changed_text(HEADERS[name], chance).decode("latin-1")]
            )
        else:
            asked.method = chance.choice(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
    asked.path = "/" + asked.path.lstrip("/").replace("#", "%23").replace("?", "%3F")
    return asked


def check(service: Service, asked: Asked, number: int) -> httpx.Response | None:
    name = f"mutation {number}: {asked!r}"
    if asked.path.rstrip("/").endswith("/api/events"):
        return None  # has no end
    with held_to_bounds(name):
        try:
            answer = service.ask(asked)
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            return None  # no client sends it
        assert answer.status_code < 500, f"{name}: {answer.status_code} {answer.text[:300]}"
        if answer.status_code >= 400 and asked.method != "HEAD":
            error = answer.json()["error"]
            assert error and "\n" not in error and len(error) < 3000, f"{name}: {answer.text[:300]}"
        return answer
    return None


def test_a_mutated_json_body_is_answered_or_refused_in_one_line(service: Service) -> None:
    for number in range(mutations("api", 4)):
        chance = random.Random(f"json {number}")
        method, path, body = chance.choice(BODIES)
        text = filled(json.dumps(body), service)
        data = changed_value(json.loads(text), chance).encode() if number % 2 else changed_text(text, chance)
        asked = Asked(method, path, {}, {"Content-Type": JSON}, data)
        asked = changed(asked, chance) if number % 3 == 0 else asked
        asked.path = filled(asked.path, service)
        check(service, asked, number)


def test_a_mutated_question_is_answered_or_refused_in_one_line(service: Service) -> None:
    for number in range(mutations("api", 4)):
        chance = random.Random(f"question {number}")
        path, query = chance.choice(QUESTIONS)
        given = {name: value for name, value in query.items() if chance.random() < 0.5}
        if given:
            given[chance.choice([*given])] = odd(chance)
        asked = changed(Asked("GET", path, given, {}, b""), chance)
        asked.path = filled(asked.path, service)
        check(service, asked, number)


# Starlette 1.10 leaves the file of a part that has no end to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("path", ["/api/parts", "/api/parts/batch", "/api/datasets/{dataset}/photos"])
def test_a_mutated_form_is_answered_or_refused_in_one_line(path: str, service: Service) -> None:
    image = png(3)
    for number in range(mutations("api", 8)):
        chance = random.Random(f"form {path} {number}")
        headers, body = multipart([image] * chance.randrange(3))
        if chance.random() < 0.3:
            headers["Content-Type"] = changed_text(headers["Content-Type"], chance).decode("latin-1")
        asked = changed(Asked("POST", path, {}, headers, changed_bytes(body, chance)), chance)
        asked.path = filled(asked.path, service)
        answer = check(service, asked, number)
        if answer is not None and answer.status_code == 200 and path == "/api/parts/batch" and asked.method == "POST":
            assert all("id" in part or part["status"] < 500 for part in answer.json().get("parts", [])), number


@pytest.mark.filterwarnings("ignore")  # of libraries, on what they meet in damaged headers
def test_a_mutated_picture_is_recorded_as_a_part_or_refused_in_one_line(service: Service) -> None:
    image = png(5)
    for number in range(mutations("api", 8)):
        chance = random.Random(f"picture {number}")
        query = {"label": odd(chance)[:120], "lot": "7"} if chance.random() < 0.5 else {}
        headers = {"Idempotency-Key": odd(chance)[:120]} if chance.random() < 0.3 else {}
        asked = Asked("POST", "/api/parts", query, headers, changed_bytes(image, chance))
        answer = check(service, asked, number)
        if answer is not None and answer.status_code == 201:
            part = answer.json()
            again = service.ask(Asked("GET", f"/api/parts/{part['id']}", {}, {}, b""))
            assert again.status_code == 200 and again.json()["image"]["sha256"] == part["image"]["sha256"], number


def test_after_all_that_the_chain_of_the_record_is_whole(service: Service) -> None:
    found = service.ask(Asked("GET", "/api/audit", {}, {}, b"")).json()
    assert found["linked"] and not found["faults"], found
