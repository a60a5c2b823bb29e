"""Health, session, parts, the live view and models: docs/station-api.md, as FastAPI routes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import UploadFile

from flawmap.errors import FlawmapError, ImageError, StationError
from flawmap.station import drawing, results
from flawmap.station.access import Who
from flawmap.station.audit import audit
from flawmap.station.files import MEDIA, is_id
from flawmap.station.live import event
from flawmap.station.models import change_of
from flawmap.station.record import records
from flawmap.station.repeats import claim
from flawmap.station.results import TEST, VERDICTS, decision_of, recorded_time, unlike_of
from flawmap.station.schemas import (
    EXACT,
    DecisionAsked,
    Models,
    Note,
    Part,
    Parts,
    Problem,
    Session,
    StationState,
    TestAsked,
)
from flawmap.station.station import Request as Asked
from flawmap.station.station import Station
from flawmap.station.testing import answered
from flawmap.station.web import (
    COOKIE,
    Camera,
    Engineer,
    Operator,
    TheStation,
    arrival_of,
    identify,
    json,
    token_of,
    told,
)

MISSED = 500  # events that a reader gets who comes back
SESSION_S = 30 * 24 * 60 * 60  # a cookie's life; the token in it can be revoked at any time
LAST = (1 << 63) - 1  # seq there can be: a database's integers end there
AT_ONCE = 8  # images of a batch that wait in the queue at a time, for each worker

router = APIRouter(responses={400: {"model": Problem}, 401: {"model": Problem}, 403: {"model": Problem}})
Words = Annotated[str | None, Query(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=100, pattern=r"^[\x20-\x7e]*$")]
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "required": ["image"],
                }
            },
        },
    }
}
IMAGES_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                    "required": ["image"],
                }
            }
        },
    }
}


@router.get("/healthz")
async def healthz() -> dict[str, bool]:
    """Whether the process answers."""
    return {"alive": True}


@router.get("/readyz")
async def readyz(station: TheStation) -> JSONResponse:
    """Whether a part would be inspected."""
    ready, (why, code) = station.ready()
    return JSONResponse({"ready": ready, "why": why, "why_code": code}, 200 if ready else 503)


@router.get("/metrics")
def metrics(station: TheStation, who: Camera) -> Response:
    """Figures for Prometheus."""
    return Response(station.metrics.text(), media_type="text/plain; version=0.0.4")


class Login(BaseModel):
    """A token, given once for a cookie."""

    model_config = EXACT
    token: str = Field(max_length=200, pattern=r"^[\x21-\x7e]*$")  # it becomes a cookie


@router.post("/api/session", response_model=Session)
def log_in(station: TheStation, request: Request, login: Login) -> JSONResponse:
    """Give the token, get a cookie."""
    who = identify(station, login.token, request.client.host if request.client else "")
    answer = json(_session(station, who))
    answer.set_cookie(
        COOKIE, login.token, SESSION_S, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer


@router.get("/api/session", response_model=Session)
def session(station: TheStation, who: Camera) -> JSONResponse:
    """Who asks."""
    return json(_session(station, who))


@router.delete("/api/session", status_code=204)
def log_out() -> Response:
    """Forget the cookie."""
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/api/station", response_model=StationState)
def state(station: TheStation, who: Camera) -> JSONResponse:
    """Everything for the top of the page."""
    return json(station.state())


@router.post(
    "/api/parts",
    status_code=201,
    response_model=Part,
    openapi_extra=IMAGE_BODY,
    responses={code: {"model": Problem} for code in (409, 413, 415, 422, 429, 503, 504)},
)
async def inspect(
    station: TheStation,
    who: Camera,
    request: Request,
    model: Words = None,
    label: Words = None,
    lot: Words = None,
    camera: Words = None,
    deadline: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
    test: bool = False,
    key: Key = None,
) -> JSONResponse:
    """Inspect one image: a file as the body, or a form with the field `image`."""
    _within_rate(station, who, request, 1)
    if key is None:  # else it may be one that was recorded
        station.pool.check_room()
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("image")
            if not isinstance(file, UploadFile):
                raise StationError("the form has no file in the field image", 400, code="no-image")
            data = await file.read()
    else:
        data = await request.body()
    asked = Asked(model, label, lot, camera, deadline, key, arrival_of(request), test)
    return json(answered(await station.inspect(data, asked, who)), 201)


@router.post(
    "/api/parts/batch", openapi_extra=IMAGES_BODY, responses={code: {"model": Problem} for code in (422, 429, 504)}
)
async def inspect_batch(
    station: TheStation,
    who: Camera,
    request: Request,
    model: Words = None,
    lot: Words = None,
    camera: Words = None,
    deadline: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
    test: bool = False,
    key: Key = None,
) -> JSONResponse:
    """Inspect the images of a form, its fields `image`, in order; one that cannot be inspected has its error.

    With a key, the same batch sent again gets the parts that were recorded, and inspects what was not.
    """
    most = station.settings.limits.batch
    async with request.form(max_files=most + 1, max_fields=10) as form:
        files = [file for file in form.getlist("image") if isinstance(file, UploadFile)]
        if not 0 < len(files) <= most:
            raise StationError(f"a batch has 1 to {most} files in the field image; this one has {len(files)}", 400)
        _within_rate(station, who, request, len(files))
        room = asyncio.Semaphore(AT_ONCE * station.pool.count)
        whole = Asked(model=model, lot=lot, camera=camera, deadline_s=deadline, key=key, test=test)
        if key is not None:
            await claim(station, whole, who, [await station.digest_of(file.file) for file in files])

        async def one(place: int, file: UploadFile) -> dict[str, Any]:
            async with room:
                try:
                    asked = replace(whole, place=place)
                    return answered(await station.inspect(await file.read(), asked, who, patient=True))
                except (FlawmapError, SQLAlchemyError) as problem:  # the others are recorded all the same
                    status, error = told(problem)
                    return {**error, "status": status, "name": file.filename or ""}

        return json({"parts": await asyncio.gather(*(one(place, file) for place, file in enumerate(files)))})


def _within_rate(station: Station, who: Who, request: Request, count: int) -> None:
    if who.token and (wait := station.rate.take(who.token, count)):
        text = f"more than {station.rate.rate:g} images a second; send more slowly"
        raise StationError(text, 429, wait, "too-fast", rate=station.rate.rate)


@router.get("/api/parts", response_model=Parts)
def parts(
    station: TheStation,
    who: Operator,
    verdict: Words = None,
    final: Literal["pass", "reject", "doubt"] | None = None,
    decided: bool | None = None,
    since: Annotated[str | None, Query(alias="from")] = None,
    to: str | None = None,
    model: Words = None,
    lot: Words = None,
    camera: Words = None,
    label: Words = None,
    label_begins: Words = None,
    label_contains: Words = None,
    seq: Annotated[int | None, Query(ge=1, le=LAST)] = None,
    min_score: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    max_score: Annotated[float | None, Query(allow_inf_nan=False)] = None,
    order: Literal["newest", "oldest"] = "newest",
    limit: Annotated[int, Query(ge=1, le=results.MOST)] = 50,
    after: Annotated[int | None, Query(ge=0, le=LAST)] = None,
    count: bool = False,
    test: bool = False,
) -> JSONResponse:
    """Parts by verdict, time, model, lot, serial number, its beginning or a piece of it, …, a page at a time."""
    verdicts = tuple(word for word in (verdict or "").split(",") if word)
    if unknown := set(verdicts) - set(VERDICTS):
        raise StationError(f"no verdict {unknown.pop()!r}; there are: {', '.join(VERDICTS)}", 400)
    query = results.Query(
        verdicts=verdicts, final=final, decided=decided, since=recorded_time(since), until=recorded_time(to),
        model=model, lot=lot, camera=camera, label=label, begins=label_begins, contains=label_contains,
        min_score=min_score, max_score=max_score, between=None if seq is None else (seq, seq), test=test,
    )  # fmt: skip
    found, following = station.results.page(query, order == "newest", limit, after)
    counted = {"count": station.results.count(query)} if count else {}
    return json({"parts": found, "next": None if following is None else str(following), **counted})


def own_part(station: Station, who: Who, ident: str) -> dict[str, Any]:
    """A part that somebody may see: a camera its own. Raises StationError (404)."""
    part = station.results.part(ident) if is_id(ident) else None
    if part is None or (not who.may("operator") and part["by"] != who.name):
        raise StationError("there is no such part", 404, code="gone")
    return part


@router.get("/api/parts/{ident}", response_model=Part)
def part(station: TheStation, who: Camera, ident: str) -> JSONResponse:
    """One part."""
    found = own_part(station, who, ident)
    return json(found if who.may("operator") else answered(found))


@router.get("/api/parts/{ident}/{picture}", response_class=Response)
def picture(
    station: TheStation,
    who: Camera,
    ident: str,
    picture: Literal["original", "photo", "map", "overlay", "heat", "thumbnail"],
    outlines: bool = True,
    drawn: bool = False,
) -> Response:
    """A picture of a part; 410 when it was thinned out."""
    found = own_part(station, who, ident)
    original, map_file = station.pictures.original(ident), station.pictures.map(ident)
    if original is None or map_file is None:
        raise gone()
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    height, width = found["image"]["height"], found["image"]["width"]
    white = station.models.white_of(found["model"]["ref"])
    try:
        if picture == "original":
            data, kind = original.read_bytes(), MEDIA[original.suffix]
        elif picture == "photo":
            data, kind = drawing.photo(original.read_bytes(), MEDIA[original.suffix], white, drawn)
        elif picture == "map":
            data, kind = drawing.map_png(map_file, height, width), "image/png"
        elif picture == "heat":
            data, kind = drawing.heat_png(map_file, height, width), "image/png"
        elif picture == "overlay":
            data, kind = drawing.overlay_jpeg(original, map_file, found["regions"], outlines, white), "image/jpeg"
        else:
            data, kind = drawing.thumbnail_jpeg(original.read_bytes(), white), "image/jpeg"
    except (ImageError, OSError):
        if original.is_file() and map_file.is_file():
            raise
        raise gone() from None  # in this very moment
    return Response(data, media_type=kind, headers=headers)


def gone() -> StationError:
    """What is answered to who asks for pictures that were thinned out."""
    text = "the pictures of this part were removed to make room; its record is kept"
    return StationError(text, 410, code="thinned")


@router.post("/api/parts/{ident}/decisions", status_code=201, response_model=Part)
def decide(station: TheStation, who: Operator, ident: str, decision: DecisionAsked) -> JSONResponse:
    """Confirm or overrule a verdict, or take back what was said, as a record of its own."""
    own_part(station, who, ident)
    return json(station.decide(ident, decision.verdict, decision.note, who), 201)


@router.get("/api/events", response_class=StreamingResponse)
async def events(
    station: TheStation,
    who: Operator,
    request: Request,
    last: Annotated[str | None, Header(alias="Last-Event-ID", pattern=r"^\d{1,18}$")] = None,
    after: Annotated[int | None, Query(ge=0, le=LAST)] = None,
) -> StreamingResponse:
    """Server-sent events: every verdict, decision and change of model, and the station's state."""
    seq, token = int(last) if last is not None else after, token_of(request)

    def missed() -> list[str]:
        try:
            return [event("station", station.state_soon()), *([] if seq is None else _missed(station, seq))]
        except SQLAlchemyError:  # the record is away; the reader looks for itself when it is back
            return [event("lag", {})]

    station.hub.check_room()

    async def stream() -> AsyncIterator[str]:
        async for text in station.hub.read(missed):
            if who.token:
                with contextlib.suppress(StationError, SQLAlchemyError):  # while the record is away nobody is revoked
                    await station.know_tokens()
                    if station.access.who(token) is None:  # revoked meanwhile
                        return
            yield text

    return StreamingResponse(
        stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


def _missed(station: Station, seq: int) -> list[str]:
    """Events of the records after `seq`, the last MISSED of them."""
    kinds = ("verdict", TEST, "decision", "unlike", "model")
    chosen = sa.select(records).where(records.c.seq > seq, records.c.kind.in_(kinds))
    with station.record.reading() as connection:
        found = connection.execute(chosen.order_by(records.c.seq.desc()).limit(MISSED + 1)).mappings()
        rows = [dict(row) for row in found][::-1]
    happened = [event("lag", {})] if len(rows) > MISSED else []
    for row in rows[-MISSED:]:
        if row["kind"] in ("verdict", TEST):
            happened.append(event(row["kind"], station.results.parts([row])[0], row["seq"]))
        elif row["kind"] == "unlike":
            happened.append(event("unlike", {"part": row["part"], "unlike": unlike_of(row)}, row["seq"]))
        elif row["kind"] == "decision":
            data = {"part": station.results.part(row["part"]), "decision": decision_of(row)}
            happened.append(event("decision", data, row["seq"]))
        else:
            happened.append(event("model", change_of(row), row["seq"]))
    return happened


@router.post("/api/test")
def switch_test(station: TheStation, who: Engineer, asked: TestAsked) -> JSONResponse:
    """Begin or end the test mode, in which parts do not count."""
    return json(station.switch_test(asked.on, asked.verdicts, asked.note, who))


@router.get("/api/models", response_model=Models)
def models(station: TheStation, who: Operator) -> JSONResponse:
    """All versions, and which is in use."""
    current = station.models.current
    return json(
        {
            "current": None if current is None else current.ref,
            "previous": station.models.previous,
            "models": [station.models.facts(version) for version in station.models.versions()],
        }
    )


NoteBody = Annotated[Note, Body(default_factory=Note)]


@router.post("/api/models/rollback")
def roll_back(station: TheStation, who: Engineer, note: NoteBody) -> JSONResponse:
    """Switch to the version used before."""
    return json(station.models.facts(station.models.roll_back(who.name, note.note)))


@router.post("/api/models/{ref}/load")
def load(station: TheStation, who: Engineer, ref: str) -> JSONResponse:
    """Load and warm up a version."""
    return json(station.models.facts(station.models.load(ref)))


@router.delete("/api/models/{ref}/load", status_code=204)
def unload(station: TheStation, who: Engineer, ref: str) -> Response:
    """Let go of a version."""
    station.models.unload(ref)
    return Response(status_code=204)


@router.post("/api/models/{ref}/use")
def use(station: TheStation, who: Engineer, ref: str, note: NoteBody) -> JSONResponse:
    """Switch to a version."""
    return json(station.models.facts(station.models.use(ref, who.name, note.note)))


@router.get("/api/audit")
def check_chain(station: TheStation, who: Engineer, head: str | None = None) -> JSONResponse:
    """Walk the chain of the record; `head`: a hash noted earlier that must be in it."""
    return json(audit(station.record, head).facts())


def _session(station: Station, who: Who) -> dict[str, Any]:
    return {"name": who.name, "role": who.role, "access": station.access.needed}
