"""`flawmap serve`: the station behind uvicorn, with its checks before it starts and a log without secrets."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import sys
from pathlib import Path
from types import FrameType

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from flawmap.errors import StationError, first_line
from flawmap.station.access import is_loopback
from flawmap.station.connections import Acceptor, Connection, most_connections
from flawmap.station.settings import StationSettings
from flawmap.station.station import Station
from flawmap.station.web import create_app

BACKLOG = 2048  # connections that wait to be taken, as uvicorn has it
DROP_S = 5  # seconds beyond the drain in which connections end


class _Server(uvicorn.Server):
    """uvicorn whose connections are bounded (connections.py), and that ends the live views at once when it is told to
    stop: they would go on for ever."""

    def __init__(self, config: uvicorn.Config, station: Station) -> None:
        super().__init__(config)
        self.station = station

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application, then take connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        limits = self.station.settings.limits
        most = most_connections(limits.connections)

        def make() -> Connection:
            return Connection(self.config, self.server_state, self.lifespan.state)

        self.servers = [
            Acceptor(each, make, self.config.ssl, most, limits.body_s, self.server_state.connections)  # type: ignore[misc]
            for each in sockets or []
        ]
        self.started = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM or Ctrl-C; what was taken is finished."""
        self.station.hub.close()
        self.force_exit = self.should_exit and sig == signal.SIGINT  # asked a second time
        self.should_exit = True  # the signal is not raised again when all is done: this is a good end

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether it is time to end."""
        if self.station.failed and not self.should_exit:
            self.station.hub.close()
            self.should_exit = True
        return await super().on_tick(counter)


def serve(
    models: Path, data: Path, host: str, port: int, database: str | None, settings: StationSettings,
    certificate: Path | None = None, key: Path | None = None,
) -> None:  # fmt: skip
    """Serve until SIGTERM or Ctrl-C. Raises StationError for what cannot be served, or cannot go on."""
    _log_to_stderr()
    if not models.is_dir():
        raise StationError(f"there is no folder {models}; make it, and copy bundles of `flawmap train` into it")
    for file in (certificate, key):
        if file is not None and not file.is_file():
            raise StationError(f"there is no file {file}; expected a certificate and its key in PEM")
    if (certificate is None) != (key is None):
        raise StationError("--certificate and --key belong together; give both")
    if certificate is not None and key is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        except (ssl.SSLError, OSError) as problem:
            raise StationError(
                f"{certificate} and {key} are no certificate and its key in PEM ({first_line(problem)})"
            ) from problem
    with _bind(host, port) as taken:
        station = Station(models, data, database, settings)
        if not is_loopback(host) and not station.access.needed:
            station.close()
            raise StationError(
                f"without tokens the station serves this machine alone, not {host}; make one with: "
                "flawmap token add NAME --role engineer --data DIR"
            )
        config = uvicorn.Config(
            create_app(station),
            log_config=None,
            access_log=False,  # it would write queries; ours does not
            server_header=False,
            http=Connection,
            proxy_headers=False,  # anyone could claim an address
            timeout_graceful_shutdown=int(settings.queue.drain_s) + DROP_S,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
        shown = f"[{host}]" if ":" in host else host
        scheme, place = "https" if certificate else "http", station.record.place if database else data
        log = logging.getLogger("flawmap.station")
        log.info("%s://%s:%d, records in %s", scheme, shown, taken.getsockname()[1], place)
        _Server(config, station).run(sockets=[taken])
        if station.failed:
            raise StationError(f"{station.failed}; look at the limits (LimitNOFILE, TasksMax), and start it anew")


def _bind(host: str, port: int) -> socket.socket:
    """A socket that listens before anything is started: who comes early waits. Raises StationError."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        taken = socket.socket(family, socket.SOCK_STREAM)
    except OSError as problem:
        raise StationError(f"cannot listen on {host}: {problem.strerror}; choose another --host") from problem
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen(BACKLOG)
    except OSError as problem:
        taken.close()
        why = problem.strerror
        raise StationError(f"cannot listen on {host} port {port}: {why}; choose another --host or --port") from problem
    taken.set_inheritable(False)
    return taken


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=os.environ.get("FLAWMAP_LOG", "INFO").upper(), format="%(asctime)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
