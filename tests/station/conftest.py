"""What the station's tests share: databases, tiny bundles, drawn images, a real server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def wait_until(fact: object, seconds: float = 60.0) -> None:
    """Until the function `fact` gives something true; a test that waits in vain fails."""
    ends = time.monotonic() + seconds
    while not fact():  # type: ignore[operator]
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.02)


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
        [*lower, binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder, "-h", "127.0.0.1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
    )  # fmt: skip

    def answers() -> bool:
        return subprocess.run([binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0

    try:
        wait_until(answers)
        yield f"postgresql://flawmap@127.0.0.1:{port}"
    finally:
        server.terminate()
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
