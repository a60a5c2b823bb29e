"""What the station says, in German: what it refuses, why it is not ready, what is wrong with photos, how it trains."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from page_helpers import expect, looked_at, open_view
from station_helpers import Server, picture, png, wait_until, workers_of

from flawmap.data.images import encode_png
from flawmap.measure.photos import HARMLESS, KINDS
from flawmap.station.client import Client

STATION = Path(__file__).parents[2] / "src/flawmap/station"
GERMAN = pytest.mark.parametrize("page", [{"locale": "de-DE"}], ids=["de"], indirect=True)
DEADLINE_S, WAITING = 1, 2
SLOW = """
image.height=64
image.width=64
few.steps=100000
detect.steps=100000
detect.batch=2
detect.crop=64
run.threads=1
"""


@pytest.fixture(scope="module")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A station of little patience, for small photos."""
    wanted = (f"queue.size={WAITING}", f"queue.deadline_s={DEADLINE_S}", "limits.pixels=6000")
    data = tmp_path_factory.mktemp("words") / "station"
    server = Server(models, data, *(word for each in wanted for word in ("--set", each)))
    yield server
    server.stop()


def test_every_code_of_the_station_has_its_words() -> None:
    raised = set()
    for file in STATION.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        raised |= set(re.findall(r"code=\"([a-z-]+)\"|\"why_code\": \"([a-z-]+)\"", text)) - {("", "")}
        raised |= {
            (code, "") for code in re.findall(r"(?:429|503), (?:float\(wait\)|wait|[\d.]+), \"([a-z-]+)\"", text)
        }
    sent = {code or other for code, other in raised}
    assert len(sent) > 20
    table = (STATION / "page/words.js").read_text(encoding="utf-8").partition("const UNITS")[0]
    known = {plain or quoted for plain, quoted in re.findall(r"^  (?:(\w+)|\"([\w-]+)\"): \[", table, re.M)}
    assert sent - known == set()
    rows = re.findall(r"^  (\S+): \[\s*\"(.*?)\",\s*\"(.*?)\",?\s*\],$", table, re.M)
    assert len(rows) == len(known)
    for code, english, german in rows:
        assert sorted(re.findall(r"\{(\w+)\}", english)) == sorted(re.findall(r"\{(\w+)\}", german)), code
    figures = {f"{kind.replace(' ', '-')}-{way}" for kind in KINDS for way in ("more", "less")}
    harmless = {f"{kind.replace(' ', '-')}-{'more' if kind == 'likeness' else 'less'}" for kind in HARMLESS}
    assert figures - harmless - known == set()
    documented = (STATION.parents[2] / "docs/station-api.md").read_text(encoding="utf-8")
    assert [code for code in sent if f"`{code}`" not in documented] == []


@GERMAN
def test_no_model_is_told_and_what_is_sent_then(page: Any, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    server = Server(tmp_path / "models", tmp_path / "station", wait=False)
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        first = http.get("/readyz").json()
        assert (first["ready"], first["why_code"]) in ((False, "loading"), (False, "no-model"))
        wait_until(lambda: http.get("/readyz").json()["why_code"] == "no-model")
        answer = http.post("/api/parts", content=png(1), headers={"Content-Type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (503, "no-model") and answer.headers["retry-after"]
        assert "and use it" in answer.json()["error"], "a bundle copied to a station that runs is not used by itself"
    open_view(page, server, "live")
    expect(page.locator(".notice")).to_have_text(
        "Die Station ist nicht bereit: noch ist kein Modell da. Ein Ingenieur lernt unter Anlernen eines an."
    )
    looked_at(page, "no model")
    open_view(page, server, "threshold")
    expect(page.locator(".versions")).to_contain_text("Noch gibt es keine.")
    looked_at(page, "threshold without a model")
    server.stop()


def test_while_a_model_is_loaded_nobody_is_told_to_train_one(page: Any, models: Path, tmp_path: Path) -> None:
    server = Server(models, tmp_path / "station", wait=False)
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        answer = http.post("/api/parts", content=png(1), headers={"Content-Type": "image/png"})
        assert (answer.status_code, answer.json()["code"]) == (503, "loading"), answer.text
        assert answer.json()["error"] == "the model is being loaded"
    open_view(page, server, "threshold")  # most likely before the model is there; it appears by itself
    expect(page.locator(".handle")).to_be_visible()
    server.stop()


def upload(page: Any, data: bytes) -> None:
    page.locator("main input[type=file]").first.set_input_files(
        {"name": "photo.png", "mimeType": "image/png", "buffer": data}
    )


@GERMAN
def test_what_is_refused_is_refused_in_german(page: Any, server: Server) -> None:
    open_view(page, server, "live")
    told = page.locator(".told.bad")
    upload(page, b"no image")
    expect(told).to_have_text("Das ist kein Foto: PNG, JPEG, BMP, TIFF oder WebP.")
    upload(page, png(1, 100, 100))
    expect(told).to_contain_text("Das Foto ist zu groß: 100\u00a0×\u00a0100 Pixel")
    (worker,) = workers_of(server)
    os.kill(worker, signal.SIGSTOP)
    senders = []
    try:
        upload(page, png(2))
        expect(told).to_contain_text("Kein Urteil in der Zeit")
        with Client(server.url) as client:
            for number in range(6):  # more than a worker holds and the queue takes
                senders.append(threading.Thread(target=_send, args=(server.url, number)))
                senders[-1].start()
            wait_until(lambda: client.station()["queue"]["waiting"] == WAITING)
        upload(page, png(3))
        expect(told).to_have_text(
            "Zu viele Teile auf einmal: die Warteschlange ist voll. Gleich noch einmal versuchen."
        )
    finally:
        os.kill(worker, signal.SIGCONT)
        for sender in senders:
            sender.join()


def _send(url: str, number: int) -> None:
    httpx.post(f"{url}/api/parts?deadline=50", content=png(number), timeout=60, trust_env=False)


@GERMAN
def test_a_token_that_will_not_do_is_told_in_german(page: Any, guarded: tuple[Server, dict[str, str]]) -> None:
    server, known = guarded
    page.goto(server.url)
    page.get_by_label("Token").fill("fm-nobody-nothing")
    page.get_by_role("button", name="Anmelden").click()
    expect(page.locator(".wrong")).to_contain_text("Dieser Token gilt nicht. Einen Ingenieur")
    page.get_by_label("Token").fill(known["operator"])
    page.get_by_role("button", name="Anmelden").click()
    expect(page.locator("nav a").first).to_be_visible()
    refused = page.request.get(f"{server.url}/api/trainings")
    assert (refused.status, refused.json()["code"]) == (403, "role")
    said = json.dumps(refused.json())
    text = page.evaluate(
        f"import('/words.js').then((it) => (({{code, values, error}}) => it.words(code, values, error))({said}))"
    )
    assert text == "Dazu gehört die Rolle Ingenieur; Ihre ist Bediener."
    assert page.evaluate("import('/words.js').then((it) => it.words('newer', {}, 'as written'))") == "as written"


@GERMAN
def test_photos_and_trainings_are_spoken_of_in_german(page: Any, server: Server) -> None:
    open_view(page, server, "train")
    page.get_by_label("Neuer Datensatz").fill("Winkel")
    page.get_by_role("button", name="Anlegen").click()
    dark = encode_png((picture(130) // 8).astype(np.uint8))
    photos = {f"{number}.png": png(number) for number in range(100, 112)}
    photos |= {"twice.png": png(100), "dark.png": dark, "none.png": b"no image", "large.png": png(1, 100, 100)}
    photos |= {"half.png": png(101)[:-2000]}
    page.locator("input[data-kind=good]").first.set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": data} for name, data in photos.items()]
    )
    expect(page.locator(".drop.good b")).to_have_text("14 gute")
    expect(page.locator(".refused")).to_contain_text("none.png: Das ist kein Foto")
    expect(page.locator(".refused")).to_contain_text("large.png: Das Foto ist zu groß")
    expect(page.locator(".refused")).to_contain_text("half.png: Das Foto ist beschädigt")
    (set_,) = page.request.get(f"{server.url}/api/datasets").json()["datasets"]
    known = page.request.get(f"{server.url}/api/datasets/{set_['id']}").json()["photos"]
    stored = next(one["id"] for one in known if one["name"] == "111.png")
    file = server.data / "datasets" / set_["id"] / "good" / f"{stored}.png"
    file.write_bytes(file.read_bytes()[:-2000])  # a disk may fail
    page.get_by_role("button", name="Fotos prüfen").click()
    found = page.locator(".photos figure")
    expect(found.filter(has_text="twice.png")).to_contain_text("doppelt dieselbe Datei wie 100.png", timeout=90_000)
    expect(found.filter(has_text="dark.png")).to_contain_text("dunkler als die meisten")
    expect(page.locator(".summary")).to_contain_text("doppelt: 1")
    expect(found.filter(has_text="111.png").locator(".gone")).to_have_text("Das Bild war nicht zu laden.")
    expect(found.filter(has_text="111.png").locator("img")).to_have_count(0)
    looked_at(page, "findings on photos")
    page.get_by_role("button", name="111.png entfernen").click()
    expect(page.locator(".drop.good b")).to_have_text("13 gute")

    page.get_by_text("Mehr", exact=True).click()
    page.get_by_label("Einstellungen").fill(SLOW)
    page.get_by_role("button", name="Anlernen starten").click()
    expect(page.locator(".progress.running")).to_contain_text("Winkel · läuft")
    expect(page.locator(".progress.running")).to_contain_text("Lernen: Schritt", timeout=120_000)
    looked_at(page, "a training")
    page.get_by_role("button", name="Anlernen abbrechen").click()
    looked_at(page, "a question about a training")
    page.locator("dialog button[value=no]").click()
    expect(page.locator(".progress.running")).to_be_visible()
    page.get_by_role("button", name="Anlernen abbrechen").click()
    page.locator("dialog button[value=yes]").click()
    expect(page.locator(".progress.cancelled")).to_contain_text("Winkel · abgebrochen")
    expect(page.locator(".progress.cancelled")).to_contain_text(re.compile(r"Bei Schritt [\d.]+ abgebrochen\."))
    expect(page.get_by_role("button", name="Anlernen starten")).to_be_enabled()
    looked_at(page, "a cancelled training")
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        (training,) = http.get("/api/trainings").json()["trainings"]
        assert (training["state"], training["why_code"]) == ("cancelled", "cancelled")
        wait_until(lambda: http.get("/api/station").json()["training"] is None)
        assert http.post("/api/trainings/none/cancel").json()["code"] == "gone"


@GERMAN
def test_a_bundle_that_is_not_whole_is_told_in_german_and_not_offered(page: Any, station: Server) -> None:
    shutil.copytree(station.models / "part.bundle", station.models / "part@2.bundle")
    (station.models / "part@2.bundle" / "weights.safetensors").unlink()
    open_view(page, station, "threshold")
    row = page.locator(".versions tbody tr").first
    expect(row).to_contain_text("part@2")
    expect(row).to_contain_text("Dieses Modell ist unvollständig")
    expect(row.locator("button")).to_have_count(0)
    looked_at(page, "a bundle that is not whole")
