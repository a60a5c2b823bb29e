"""The web side's frame: who asks, how much they may send, and how what goes wrong is answered.

What is read for people (lists, reports, pictures) takes turns, READERS at a time: however many ask, a part on its way
to a verdict finds a thread, and Python's one lock, soon.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flawmap import __version__
from flawmap.errors import FlawmapError, ImageError, StationError, one_line
from flawmap.station.access import LOCAL, Who, is_loopback
from flawmap.station.connections import CONNECTION
from flawmap.station.record import reason
from flawmap.station.station import Station, too_large

COOKIE = "flawmap"
ARRIVAL = "flawmap.arrival"  # in a request's scope
BESIDE = 1 << 20  # bytes of a request beside its images
SAFE = ("GET", "HEAD", "OPTIONS")
READERS = 6  # requests at a time that only read, but for what is short or has no end
QUICK = ("/api/events", "/api/session")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE)
PAGE = Path(__file__).with_name("page")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # else a browser keeps the page of the version before
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; frame-ancestors 'none'",
}

log = logging.getLogger("flawmap.station")


def create_app(station: Station) -> FastAPI:
    """The station's web application; it starts and closes the station."""
    from flawmap.station import report, routes, thresholds, training_routes

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        station.start()
        yield
        await station.settle()
        await asyncio.to_thread(station.close)

    app = FastAPI(
        title="flawmap station",
        version=__version__,
        description="Inspect parts, look at what was found, decide, and keep a record. See docs/station-api.md.",
        docs_url=None,  # these pages would be loaded from elsewhere
        redoc_url=None,
        lifespan=life,
    )
    app.state.station = station
    for router in (routes.router, thresholds.router, report.router, training_routes.router):
        app.include_router(router)
    for problem in (
        FlawmapError, RequestValidationError, HTTPException, SQLAlchemyError, OSError, ClientDisconnect, Exception
    ):  # fmt: skip
        app.add_exception_handler(problem, _answer)
    if PAGE.is_dir():
        app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    app.add_middleware(Frame, station=station)
    return app


def station_of(request: Request) -> Station:
    """The station that a request came to."""
    found: Station = request.app.state.station
    return found


TheStation = Annotated[Station, Depends(station_of)]


def token_of(request: Request) -> str:
    """The token a request brings, in its header or its cookie; "" without one."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else request.cookies.get(COOKIE, "")


def identify(station: Station, token: str, address: str) -> Who:
    """Whose token it is. Raises StationError: 401, or 429 after many wrong ones from an address.

    Without any token it is this machine's user, and nobody from elsewhere: the last one may have been revoked.
    """
    if not station.access.needed:
        if address and is_loopback(address):
            return LOCAL
        raise StationError("without tokens the station is for this machine alone; use http://127.0.0.1", 401)
    who = station.access.who(token) if token else None
    if who is not None:
        return who
    if token and (wait := station.failures.take(address)):
        raise StationError("too many wrong tokens; wait a while", 429, wait, "wrong-tokens")
    raise StationError("a valid token is needed; an engineer makes one with: flawmap token add", 401, code="token")


def need(role: str) -> Callable[[Request], Coroutine[Any, Any, Who]]:
    """A dependency: somebody of this role or above."""

    async def check(request: Request) -> Who:
        station = station_of(request)
        await station.know_tokens()
        _refuse_other_sites(request, station)
        who = identify(station, token_of(request), request.client.host if request.client else "")
        if not who.may(role):
            text = f"this takes the role {role}, and the token's is {who.role}"
            raise StationError(text, 403, code="role", needed=role, role=who.role)
        if (connection := request.scope.get(CONNECTION)) is not None:
            connection.trusted = True
        return who

    return check


Camera = Annotated[Who, Depends(need("camera"))]
Operator = Annotated[Who, Depends(need("operator"))]
Engineer = Annotated[Who, Depends(need("engineer"))]


def _refuse_other_sites(request: Request, station: Station) -> None:
    """What another site has a browser send here: by its origin, or by a name of its own for this address."""
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if request.method not in SAFE and origin is not None and origin.partition("://")[2] != host:
        raise StationError("this request comes from another site", 403)
    bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if not station.access.needed and not is_loopback(bare):
        raise StationError("without tokens the station is for this machine alone; use http://127.0.0.1", 403)


def arrival_of(request: Request) -> float:
    """When a request came, of the monotonic clock, less the time in which its sender was waited for."""
    came: float = request.scope.get(ARRIVAL, 0.0)
    return came


async def _answer(request: Request, problem: Exception) -> JSONResponse:
    """What went wrong as one line."""
    headers = {}
    status, error = told(problem)
    if isinstance(problem, StationError) and problem.retry_after:
        headers["Retry-After"] = str(math.ceil(problem.retry_after))
    elif isinstance(problem, SQLAlchemyError):
        headers["Retry-After"] = "5"
    elif status == 500:
        log.error("a defect of flawmap", exc_info=problem)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(error, status, headers)


def told(problem: Exception) -> tuple[int, dict[str, Any]]:
    """The status with which a problem is answered, and what: its one line, and where there is one its code."""
    if isinstance(problem, StationError):
        return problem.status or 400, error_of(problem)
    if isinstance(problem, FlawmapError):
        return 422 if isinstance(problem, ImageError) else 400, error_of(problem)
    if isinstance(problem, RequestValidationError):
        first = problem.errors()[0]
        wrong_type = first["loc"][0] == "body" and len(first["loc"]) > 1 and first["type"].endswith("_type")
        return 422 if wrong_type else 400, {"error": f"{_place(first['loc'])}: {one_line(first['msg'])}"}
    if isinstance(problem, ClientDisconnect):  # nobody reads it; the log's line has the status
        return 400, {"error": "the request ended before its body was whole"}
    if isinstance(problem, HTTPException):
        return problem.status_code, {"error": str(problem.detail)}
    if isinstance(problem, SQLAlchemyError):
        log.error("the record: %s", reason(problem))
        return 503, {"error": f"the record cannot be read or written: {reason(problem)}", "code": "record"}
    if isinstance(problem, OSError) and problem.errno in DISK:
        log.error("the disk: %s", problem)
        text = f"the station cannot write to its disk: {problem.strerror}; make room or change its permissions"
        return 503, {"error": text, "code": "disk"}
    return 500, {"error": "a defect of flawmap; the station's log says more", "code": "defect"}


def _place(location: Sequence[int | str]) -> str:
    """Where in a request something is wrong; a name that the sender made up is told by its beginning."""
    return one_line(".".join(str(part) if len(str(part)) <= 100 else f"{str(part)[:100]}…" for part in location))


def error_of(problem: Exception) -> dict[str, Any]:
    """What went wrong as it is answered: `error`, and where an operator may meet it `code` and its `values`."""
    error: dict[str, Any] = {"error": str(problem)}
    if isinstance(problem, StationError) and problem.code:
        error |= {"code": problem.code, "values": problem.values}
    return error


class Frame:
    """Around every request: a limit on its bytes, headers for browsers, a line in the log without query and tokens."""

    def __init__(self, app: ASGIApp, station: Station) -> None:
        self.app, self.station = app, station
        self.reading = asyncio.Semaphore(READERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, as ASGI has it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit, taken, began, status = self._limit(scope), 0, time.monotonic(), 0
        scope[ARRIVAL] = began

        async def receive_some() -> Message:
            nonlocal taken
            waits = time.monotonic()
            message = await receive()
            scope[ARRIVAL] += time.monotonic() - waits
            taken += len(message.get("body", b""))
            if taken > limit:
                raise too_large(self.station.settings.limits.bytes)
            return message

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if taken > limit:  # the rest of the body is not read
                    headers["Connection"] = "close"
            await send(message)

        try:
            async with self.reading if _only_reads(scope) else contextlib.nullcontext():
                await self.app(scope, receive_some, send_on)
        finally:
            if not scope["path"].endswith(("/healthz", "/readyz", "/metrics")) or status >= 400:
                milliseconds = 1000 * (time.monotonic() - began)
                path = scope["path"][:200].encode("unicode_escape").decode()
                answered = getattr(scope.get(CONNECTION), "refused", 0) or status  # before the request was whole
                log.info("%s %s %d %.0f ms", scope["method"], path, answered, milliseconds)

    def _limit(self, scope: Scope) -> int:
        """Bytes that a request may have."""
        limits = self.station.settings.limits
        if scope["path"] == "/api/parts":
            return limits.bytes + BESIDE
        if scope["path"] == "/api/parts/batch" or scope["path"].endswith("/photos"):
            return limits.batch * limits.bytes + BESIDE
        return BESIDE


def _only_reads(scope: Scope) -> bool:
    return scope["method"] == "GET" and scope["path"].startswith("/api/") and scope["path"] not in QUICK


def json(data: Any, status: int = 200) -> JSONResponse:
    """An answer as it is, which saves looking through it again."""
    return JSONResponse(data, status)
