"""Data sets and trainings over the web: docs/station-api.md, Train."""

from __future__ import annotations

from importlib import resources
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile

from flawmap.errors import StationError
from flawmap.station.files import MEDIA
from flawmap.station.schemas import EXACT, Note
from flawmap.station.training import FIRST
from flawmap.station.web import Engineer, TheStation, error_of, json

router = APIRouter()
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f/@]+$")]


class _Exact(BaseModel):
    model_config = EXACT


class DataSetAsked(_Exact):
    """A new data set."""

    name: Name


class TrainingAsked(_Exact):
    """A new training. settings: `section.name=value`, none that names a file."""

    dataset: str
    name: Name
    recipe: str = "fast"
    settings: list[str] = Field(default_factory=list, max_length=50)


class ComparisonAsked(_Exact):
    """How many recorded parts are compared; decided_only: of those that an operator decided."""

    parts: int = Field(100, ge=1, le=2000)
    decided_only: bool = False


class Promotion(Note):
    """use: switch to it."""

    use: bool = True


@router.get("/api/datasets")
def datasets(station: TheStation, who: Engineer) -> JSONResponse:
    """All data sets."""
    return json({"datasets": station.datasets.all()})


@router.post("/api/datasets", status_code=201)
def make(station: TheStation, who: Engineer, asked: DataSetAsked) -> JSONResponse:
    """A new, empty data set."""
    return json(station.datasets.make(asked.name), 201)


@router.get("/api/datasets/{ident}")
def dataset(station: TheStation, who: Engineer, ident: str) -> JSONResponse:
    """A data set with its photos, and what is wrong with them."""
    return json(station.datasets.get(ident))


@router.delete("/api/datasets/{ident}", status_code=204)
def remove(station: TheStation, who: Engineer, ident: str) -> Response:
    """Forget a data set."""
    running = station.trainings.running
    if running is not None and station.trainings.get(running)["dataset"] == ident:
        raise StationError("a training uses these photos; wait for it, or cancel it", 409, code="photos-in-use")
    station.datasets.remove(ident)
    return Response(status_code=204)


@router.post("/api/datasets/{ident}/photos")
async def add(
    station: TheStation, who: Engineer, request: Request, ident: str, kind: Literal["good", "defective"] = "good"
) -> JSONResponse:
    """Add photos, the fields `image` of a form; masks among defective ones are told by their names and looks."""
    from starlette.concurrency import run_in_threadpool

    added: list[dict[str, Any]] = []
    refused: list[dict[str, Any]] = []
    await run_in_threadpool(station.datasets.get, ident)
    async with request.form(max_files=station.settings.limits.batch + 1, max_fields=10) as form:
        files = [file for file in form.getlist("image") if isinstance(file, UploadFile)]
        if not 0 < len(files) <= station.settings.limits.batch:
            raise StationError(f"send 1 to {station.settings.limits.batch} files at a time in the field image", 400)
        for file in files:
            name = "".join(letter for letter in (file.filename or "") if letter.isprintable())
            try:
                added.append(await run_in_threadpool(station.datasets.add, ident, kind, name, await file.read()))
            except StationError as problem:
                refused.append({"name": name, **error_of(problem)})
    photos = (await run_in_threadpool(station.datasets.get, ident))["photos"]
    known = {photo["id"]: photo for photo in photos}  # one that came before its photo is known as a mask by now
    return json({"added": [known.get(one["id"], one) for one in added], "refused": refused})


@router.get("/api/datasets/{ident}/photos/{photo}", response_class=Response)
def photo(station: TheStation, who: Engineer, ident: str, photo: str, thumbnail: bool = False) -> Response:
    """A photo, or a small picture of it."""
    file = station.datasets.photo(ident, photo)
    if thumbnail:
        return Response(station.datasets.thumbnail(ident, photo), media_type="image/jpeg")
    return FileResponse(file, media_type=MEDIA[file.suffix])


@router.delete("/api/datasets/{ident}/photos/{photo}", status_code=204)
def remove_photo(station: TheStation, who: Engineer, ident: str, photo: str) -> Response:
    """Forget a photo."""
    station.datasets.remove_photo(ident, photo)
    return Response(status_code=204)


@router.post("/api/datasets/{ident}/check", status_code=202)
def check(station: TheStation, who: Engineer, ident: str) -> JSONResponse:
    """Find what is wrong with the photos, in the background."""
    station.datasets.check(ident)
    return json(station.datasets.get(ident), 202)


@router.get("/api/recipes")
def recipes(station: TheStation, who: Engineer) -> JSONResponse:
    """Recipes to train by."""
    from flawmap.config import training_recipes

    found = []
    for name in training_recipes():
        text = (resources.files("flawmap") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
        about = " ".join(line.lstrip("# ") for line in text.splitlines() if line.startswith("#"))
        found.append({"name": name, "about": about.partition(". ")[0].rstrip(".")})
    return json({"recipes": found})


@router.get("/api/trainings")
def trainings(station: TheStation, who: Engineer) -> JSONResponse:
    """All trainings, newest first."""
    return json({"trainings": station.trainings.all()})


@router.post("/api/trainings", status_code=202)
def start(station: TheStation, who: Engineer, asked: TrainingAsked) -> JSONResponse:
    """Start a training."""
    return json(station.trainings.start(asked.dataset, asked.name, asked.recipe, asked.settings, who.name), 202)


@router.get("/api/trainings/{ident}")
def training(station: TheStation, who: Engineer, ident: str) -> JSONResponse:
    """A training with the course of its losses."""
    return json(station.trainings.get(ident))


@router.post("/api/trainings/{ident}/cancel")
def cancel(station: TheStation, who: Engineer, ident: str) -> JSONResponse:
    """Stop a training."""
    return json(station.trainings.cancel(ident))


@router.post("/api/trainings/{ident}/compare", status_code=202)
def compare(
    station: TheStation,
    who: Engineer,
    ident: str,
    asked: Annotated[ComparisonAsked, Body(default_factory=ComparisonAsked)],
) -> JSONResponse:
    """Inspect recorded parts by the new model and the one in use."""
    station.trainings.compare(ident, asked.parts, asked.decided_only)
    return json(station.trainings.get(ident), 202)


@router.post("/api/trainings/{ident}/promote", status_code=201)
def promote(
    station: TheStation, who: Engineer, ident: str, asked: Annotated[Promotion, Body(default_factory=Promotion)]
) -> JSONResponse:
    """Make the new model a version, and switch to it unless told not to."""
    version = station.trainings.promote(ident, asked.use, who.name, asked.note)
    return json(station.models.facts(version), 201)


@router.get("/api/trainings/{ident}/first/{number}", response_class=Response)
def first(
    station: TheStation, who: Engineer, ident: str, number: Annotated[int, Path(ge=0, lt=FIRST)]
) -> Response:  # fmt: skip
    """What the new model finds on one of its photos."""
    return FileResponse(station.trainings.first(ident, number), media_type="image/jpeg")
