"""What the API takes and gives, as OpenAPI tells it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

Verdict = Literal["pass", "reject", "doubt"]


# Of JSON that is sent: a text, or true, is no number, and nothing is left out or unknown.
EXACT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(_Exact):
    """What went wrong, in one line. code, values: the same for a page in another language, where it has a code."""

    error: str
    code: str = ""
    values: dict[str, str | float] = Field(default_factory=dict)


class Note(_Exact):
    """Why something is changed."""

    model_config = EXACT
    note: str = Field("", max_length=1000)


class DecisionAsked(Note):
    """What an operator says a part is; null takes back what was said."""

    verdict: Literal["pass", "reject"] | None


class TestAsked(Note):
    """Whether parts are tests from now on, and whether their senders are told verdicts all the same."""

    __test__ = False  # no test of pytest's

    on: StrictBool
    verdicts: StrictBool = False


class Session(_Exact):
    """Who asks; access: whether the station asks for tokens."""

    name: str
    role: Literal["camera", "operator", "engineer"]
    access: bool


class Decision(_Exact):
    """What an operator said of a part; a `withdraw` has no verdict."""

    seq: int
    time: str
    who: str
    verdict: Literal["pass", "reject"] | None
    decision: Literal["confirm", "overrule", "withdraw"]
    note: str


class ModelRef(_Exact):
    """The version that inspected; sha256: of its bundle.json."""

    ref: str
    name: str
    version: int
    sha256: str


class Region(_Exact):
    """Where the map exceeds the pixel threshold; in pixels of the image."""

    box: tuple[int, int, int, int]
    polygon: list[tuple[int, int]]
    area: int
    peak: float
    mean: float


class ImageFacts(_Exact):
    """The file that was inspected."""

    width: int
    height: int
    bytes: int
    sha256: str
    kind: str


class Part(_Exact):
    """A part and everything that is known of it.

    remarks: on its file; test: it does not count; withheld: its sender was told no verdict, no `defective`, no `final`
    """

    id: str
    seq: int
    time: str
    verdict: Verdict | None
    defective: bool | None
    score: float
    threshold: float
    p_value: float | None
    good_parts: int | None = None
    doubt: float
    model: ModelRef
    regions: list[Region]
    smallest: int | None = None
    unlike: list[dict[str, str]] = Field(default_factory=list)
    remarks: list[str] = Field(default_factory=list)
    image: ImageFacts
    label: str | None
    lot: str | None
    camera: str | None
    by: str
    duration_ms: float
    decision: Decision | None
    decisions: list[Decision]
    final: Verdict | None
    links: dict[str, str]
    test: bool
    withheld: bool
    kept: bool
    hash: str


class Parts(_Exact):
    """A page of parts; `next` is to be given as `after`; `count`, where it was asked for, is of all pages."""

    parts: list[Part]
    next: str | None
    count: int | None = None


class Model(_Exact):
    """A version of a model. white: the pixel value that is full white in photos with 16 bits."""

    ref: str
    name: str
    version: int
    sha256: str
    current: bool
    loaded: bool
    usable: bool
    why: str
    why_code: str
    threshold: dict[str, Any] | None
    weights_sha256: str
    smallest: int
    white: int
    created: str
    trained_on: int | None
    origin: str
    by: str


class Models(_Exact):
    """All versions, and which is in use."""

    current: str | None
    previous: str | None
    models: list[Model]


class StationState(_Exact):
    """Everything for the top of the page."""

    flawmap: str
    name: str
    time: str
    started: str
    ready: bool
    why: str
    why_code: str
    model: dict[str, Any] | None
    queue: dict[str, int]
    counts: dict[str, Any]
    escape: dict[str, Any]
    last_part: str | None
    silent_s: float | None
    silent: bool
    drift: dict[str, Any]
    promise: dict[str, Any]
    limits: dict[str, float]
    doubt: float
    training: str | None
    test: dict[str, Any]
