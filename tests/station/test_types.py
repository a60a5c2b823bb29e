"""JSON that is sent has the types it is told to have: nothing is taken for something else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from station_helpers import Server, run_async

from flawmap.bundle import load_bundle
from flawmap.errors import StationError
from flawmap.station import web
from flawmap.station.access import LOCAL
from flawmap.station.settings import StationSettings

IDENT = "0" * 32
NOT_NUMBERS = (True, False, "0.5", "1", [0.5], {"score": 0.5})
BODIES: list[tuple[str, dict[str, Any]]] = [
    *(("/api/threshold", {"score": value}) for value in NOT_NUMBERS),
    *(("/api/threshold", {"overkill": value}) for value in NOT_NUMBERS),
    ("/api/threshold", {"score": 0.5, "use": 1}),
    ("/api/threshold", {"score": 0.5, "use": "true"}),
    ("/api/threshold", {"score": 0.5, "note": 5}),
    ("/api/threshold", {"score": 0.5, "model": 1}),
    (f"/api/parts/{IDENT}/decisions", {"verdict": "pass", "note": True}),
    (f"/api/trainings/{IDENT}/compare", {"parts": "100"}),
    (f"/api/trainings/{IDENT}/compare", {"parts": True}),
    (f"/api/trainings/{IDENT}/compare", {"parts": 10.5}),
    (f"/api/trainings/{IDENT}/compare", {"decided_only": "yes"}),
    (f"/api/trainings/{IDENT}/promote", {"use": 0}),
    ("/api/trainings", {"dataset": 1, "name": "part"}),
    ("/api/trainings", {"dataset": "x", "name": "part", "settings": "detect.steps=3"}),
    ("/api/trainings", {"dataset": "x", "name": "part", "settings": [3]}),
    ("/api/datasets", {"name": 7}),
    ("/api/session", {"token": 12}),
    ("/api/models/rollback", {"note": ["why"]}),
]


class Touched(StationError):
    """A request came through to the station."""


class Untouched:
    """A station that nothing may come through to."""

    def __init__(self) -> None:
        self.settings = StationSettings()
        self.access = SimpleNamespace(needed=False, who=lambda token: LOCAL)
        self.failures = SimpleNamespace(take=lambda address: 0)

    def start(self) -> None: ...

    def close(self) -> None: ...

    async def know_tokens(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise Touched(f"station.{name} was reached", 500)


class Asker:
    """Asks an application in this process, from this machine."""

    def __init__(self) -> None:
        self.app = web.create_app(Untouched())  # type: ignore[arg-type]

    def ask(self, method: str, path: str, **sent: Any) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=("127.0.0.1", 5))
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
                return await http.request(method, path, **sent)

        return run_async(asked())

    def get(self, path: str) -> httpx.Response:
        return self.ask("GET", path)

    def post(self, path: str, **sent: Any) -> httpx.Response:
        return self.ask("POST", path, headers={"Content-Type": "application/json"}, **sent)


@pytest.fixture(scope="module")
def client() -> Asker:
    return Asker()


@pytest.mark.parametrize(("path", "body"), BODIES)
def test_a_value_of_another_type_is_refused_with_422(path: str, body: dict[str, Any], client: Asker) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == 422, answer.text
    assert "\n" not in answer.json()["error"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1.5", "-0.1", "1" + "0" * 400])
def test_a_number_out_of_range_is_refused(number: str, client: Asker) -> None:
    for name in ("score", "overkill"):
        answer = client.post("/api/threshold", content=f'{{"{name}": {number}}}')
        assert answer.status_code in (400, 422), answer.text
        assert "reached" not in answer.text


@pytest.mark.parametrize("body", ["[]", "3", '"score"', "null", "[0.5]"])
def test_what_is_no_object_is_refused(body: str, client: Asker) -> None:
    assert client.post("/api/threshold", content=body).status_code in (400, 422)


@pytest.mark.parametrize(
    "query",
    [
        "parts?min_score=nan", "parts?max_score=inf", "parts?min_score=true", "parts?min_score=1e999",
        "parts?limit=5.5", "parts?limit=true", "parts?count=2", "parts?decided=maybe", "threshold?bins=ten",
        "threshold/at?score=true", "threshold/at?score=1.5", "threshold/around?score=0.5&count=true",
        "events?after=true",
    ],
)  # fmt: skip
def test_a_query_of_another_type_is_refused(query: str, client: Asker) -> None:
    answer = client.get(f"/api/{query}")
    assert answer.status_code == 400, answer.text
    assert "reached" not in answer.text


@pytest.mark.parametrize("deadline", ["nan", "inf", "true", "0", "-1", "1e999"])
def test_a_deadline_is_a_number_of_seconds(deadline: str, client: Asker) -> None:
    for path in ("parts", "parts/batch"):
        answer = client.post(f"/api/{path}?deadline={deadline}", content=b"x")
        assert answer.status_code == 400, answer.text


@pytest.mark.parametrize("token", ["\u2028", "é", "a b", "x\n", "\0"])
def test_a_token_that_can_be_no_cookie_is_refused(token: str, client: Asker) -> None:
    answer = client.post("/api/session", json={"token": token})
    assert answer.status_code == 400 and answer.json()["error"].startswith("body.token: "), answer.text


@pytest.mark.parametrize("name", ["x" * 5000, "two\nlines"])
def test_a_made_up_name_is_refused_in_one_short_line(name: str, client: Asker) -> None:
    answer = client.post("/api/models/rollback", json={name: 1})
    told = answer.json()["error"]
    assert answer.status_code == 400 and "\n" not in told and len(told) < 300, told


@pytest.mark.parametrize("body", ['{"score": 0}', '{"score": 1, "use": true, "note": "why"}', '{"overkill": 0.05}'])
def test_what_is_right_comes_through(body: str, client: Asker) -> None:
    answer = client.post("/api/threshold", content=body)
    assert "reached" in answer.text, "whole numbers are numbers too"


def test_a_changed_bundle_is_listed_with_its_reason_and_not_used(station: Server) -> None:
    part = station.models / "part.bundle"
    note = json.loads((part / "bundle.json").read_text(encoding="utf-8"))
    with httpx.Client(base_url=station.url, timeout=60, trust_env=False) as http:
        made = http.post("/api/threshold", json={"score": 0.9, "use": False}).json()
        place: Path = station.models / f"{made['ref']}.bundle"
        assert (threshold := load_bundle(place).threshold) is not None and threshold.score == 0.9
        changed = json.loads((place / "bundle.json").read_text(encoding="utf-8"))
        changed["threshold"]["score"] = 0.95
        (place / "bundle.json").write_text(json.dumps(changed), encoding="utf-8")
        told = http.get("/api/models").json()["models"][0]
        assert (told["ref"], told["usable"], told["threshold"]) == (made["ref"], False, None)
        assert "bundle.json was changed since flawmap wrote it" in told["why"]
        assert http.post(f"/api/models/{made['ref']}/use", json={}).status_code == 409
        assert http.get("/api/models").json()["current"] == "part@1"
    assert note["threshold"]["score"] != 0.9
