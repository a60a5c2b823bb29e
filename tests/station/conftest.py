"""What the station's tests share: databases, tiny bundles, drawn images, a real server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from page_helpers import EXPECTED, PANEL, PATIENCE_MS
from station_helpers import Server, free_port, picture, wait_until

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


@pytest.fixture(scope="session", autouse=True)
def leftovers() -> Iterator[None]:
    """Ends the servers of tests that failed before they could."""
    yield
    for server in Server.made:
        server.kill()


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real PostgreSQL server, started for these tests."""
    if not BINARIES:
        pytest.skip("no PostgreSQL server is installed (apt-get install postgresql)")
    pytest.importorskip("psycopg")
    folder, binaries = Path(f"/tmp/flawmap-postgresql-{os.getpid()}"), BINARIES[-1].parent  # a socket's path is short
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    # PostgreSQL refuses to run as root
    lower = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    port = free_port()
    subprocess.run(
        [*lower, binaries / "initdb", "-D", folder / "data", "-U", "flawmap", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True, capture_output=True, cwd="/",
    )  # fmt: skip
    server = subprocess.Popen(
        [*lower, binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1", "-F"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip

    def answers() -> bool:
        return subprocess.run([binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0

    try:
        wait_until(answers)
        yield f"postgresql://flawmap@127.0.0.1:{port}"
    finally:
        server.send_signal(signal.SIGQUIT)  # at once; nothing of it is kept
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'record.sqlite'}"
    import psycopg

    server, name = request.getfixturevalue("postgresql"), f"test_{time.monotonic_ns()}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[call-overload]
    return f"{server}/{name}"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one tiny untrained model, part.bundle, that knows good photos; tests copy it."""
    import numpy as np
    import torch

    from flawmap.bundle import Bundle, build, save_bundle
    from flawmap.config import load_recipe
    from flawmap.data.pictures import pictures_in
    from flawmap.data.scope import Scope
    from flawmap.deploy.inspector import Inspector
    from flawmap.measure.photos import TILES, learn, take
    from flawmap.measure.threshold import choose_threshold

    recipe = load_recipe(
        Path(__file__).parents[1] / "tiny.toml", ['model.norm="batch"', "model.detection_sees_image=true"]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(recipe.model, with_refinement=True).eval()
        model.detection.out.weight.data.mul_(40)  # untrained, it sees little: scores differ in the fifth digit
    bundle = Bundle(model=model, recipe=recipe, threshold=None, provenance={})
    usual = torch.get_num_threads()
    torch.set_num_threads(1)  # networks so small only wait for each other's threads
    inspector = Inspector(bundle, "cpu")
    good = [picture(number) for number in range(100, 130)]
    found = [inspector.inspect(pixels) for pixels in good]
    scores, peaks = [one.score for one in found], [float(one.map.max()) for one in found]
    bundle.threshold = choose_threshold(scores, peaks, 0.5)  # so that both verdicts come up
    bundle.provenance = {"held_out_scores": scores, "held_out_peaks": peaks, "trained_on": 30, "created": "2026-01-01"}
    scope = Scope(recipe.image, None)
    bundle.photos = learn(
        [
            take(pictures_in(np.asarray(pixels), "x", recipe.image, scope, TILES), model.discrete, torch.device("cpu"))
            for pixels in good
        ]
    )
    torch.set_num_threads(usual)
    folder = tmp_path_factory.mktemp("models")
    # In half precision an untrained model finds other codes: good parts would look unlike those it knows.
    save_bundle(bundle, folder / "part.bundle", dtype="float32")
    return folder


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """Asks the module's own server."""
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's browser, without a window."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no chromium is installed (apt-get install chromium)")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def station(models: Path, tmp_path: Path) -> Iterator[Server]:
    """A station with a tiny model in a folder of its own, so that a test may make versions."""
    own = tmp_path / "models"
    shutil.copytree(models, own)
    server = Server(own, tmp_path / "station", "--set", "name=line 3")
    yield server
    if server.process.poll() is None:
        server.stop()


@pytest.fixture
def page(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page at the panel's size, in English; no error in its console goes unnoticed. Parameters: of the context."""
    context = chromium.new_context(**{"viewport": PANEL, "locale": "en-GB", **getattr(request, "param", {})})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    yield page
    context.close()
    assert [fault for fault in faults if not EXPECTED.search(fault)] == []


@pytest.fixture
def guarded(models: Path, tmp_path: Path) -> Iterator[tuple[Server, dict[str, str]]]:
    """A station that asks for tokens, and one of each role."""
    from flawmap.station.access import add_token
    from flawmap.station.record import Record

    data = tmp_path / "station"
    data.mkdir()
    record = Record(f"sqlite:///{data / 'record.sqlite'}")
    made = {role: add_token(record, f"{role}-1", role) for role in ("camera", "operator", "engineer")}
    record.close()
    server = Server(models, data)
    yield server, made
    server.stop()
