"""Every setting of a station: its meaning, unit and range. `station.toml`, or `--set section.name=value`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from flawmap.config import Area, PlaceSettings, Section, apply_override, checked, smallest_area, toml_values
from flawmap.errors import ConfigError


class VerdictSettings(Section):
    """How a score becomes a verdict."""

    doubt: float = Field(
        0.02, ge=0, le=1, description="A score this near to the threshold, on either side, is a doubt: someone looks."
    )
    smallest: Area | None = Field(
        None,
        description='The smallest area of a place, as `verdict.smallest` of a recipe: `20`, `"0.5 mm"`, `"0.2 mm2"`; '
        "none: each model's own. Smaller specks are not outlined; the verdict does not change.",
    )
    mm_per_pixel: float = Field(
        0.0, ge=0, description="What a pixel of a photo measures, in millimetres; `smallest` in mm needs it."
    )

    @model_validator(mode="after")
    def _known_scale(self) -> VerdictSettings:
        if self.smallest is not None:
            PlaceSettings(smallest=self.smallest, mm_per_pixel=self.mm_per_pixel)
        return self

    @property
    def pixels(self) -> int | None:
        """The smallest area in pixels of the photo, None for each model's own."""
        return None if self.smallest is None else smallest_area(self.smallest, self.mm_per_pixel)


class LimitSettings(Section):
    """What a request may ask for."""

    bytes: int = Field(32 << 20, ge=1024, description="Of one image file.")
    pixels: int = Field(50_000_000, ge=1024, description="Of one image; read from its header before it is decoded.")
    batch: int = Field(32, ge=1, le=1000, description="Images in one request.")
    rate: float = Field(50.0, gt=0, description="Images a second of one token, on average.")
    burst: int = Field(200, ge=1, description="Images that one token may send at once before `rate` counts.")
    connections: int = Field(
        1000, ge=16, le=100_000, description="At a time; fewer where the process may not open so many files."
    )
    body_s: float = Field(
        30.0, gt=0, description="For a request's body to come; a second more for each 50 kB that came of it."
    )
    readers: int = Field(200, ge=1, le=10_000, description="Pages and programs that read the live events at a time.")
    failures: int = Field(20, ge=1, description="Wrong tokens a minute from one address before it has to wait.")


class QueueSettings(Section):
    """How long work may wait."""

    size: int = Field(64, ge=1, le=100_000, description="Images that wait; one more is answered 429.")
    deadline_s: float = Field(10.0, gt=0, description="Seconds until a verdict, where a request names none.")
    max_deadline_s: float = Field(60.0, gt=0, description="The longest that a request may name.")
    stuck_s: float = Field(120.0, gt=0, description="A worker this long at one batch is taken for dead and replaced.")
    drain_s: float = Field(30.0, ge=0, description="After SIGTERM, seconds in which accepted work is finished.")


class WorkerSettings(Section):
    """The processes that inspect."""

    count: int = Field(
        0, ge=0, le=64, description="Processes; each holds the loaded models. 0: one a core up to 4, one on a GPU."
    )
    threads: int = Field(0, ge=0, description="CPU threads of each; 0 shares the cores among them.")
    batch: int = Field(0, ge=0, le=256, description="Waiting images inspected at once; 0: 1 on a CPU, 8 on a GPU.")
    runtime: Literal["torch", "onnx", "openvino", "auto"] = Field("torch", description="As of `flawmap inspect`.")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="`bfloat16` is faster where the processor has it, and not for the runtime `onnx`."
    )
    device: str = Field("auto", description="`auto`, `cpu`, `cuda`, ….")
    give_up_s: float = Field(
        60.0, gt=0, description="No worker could be started for so many seconds: the station ends, with exit code 2."
    )

    @model_validator(mode="after")
    def _runtime_computes_it(self) -> WorkerSettings:
        if self.precision == "bfloat16" and self.runtime == "onnx":
            raise ValueError("the runtime onnx computes no bfloat16; use openvino, torch or auto")
        return self


class KeepSettings(Section):
    """How long pictures are kept. Records are kept for ever."""

    good_days: float = Field(30.0, ge=0, description="Pictures of parts that passed.")
    rejected_days: float = Field(365.0, ge=0, description="Pictures of parts rejected, doubtful or overruled.")
    gigabytes: float = Field(50.0, gt=0, description="Of all pictures; beyond it good parts go first, oldest first.")
    every_s: float = Field(300.0, gt=0, description="Seconds between two looks at it.")
    sync: bool = Field(True, description="Pictures are on the disk before the verdict is recorded, as records are.")


class ShiftSettings(Section):
    """When counters start anew."""

    starts: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        ("06:00", "14:00", "22:00"), description="Times of the day, `HH:MM`, in order."
    )
    zone: str = Field("UTC", description="Their time zone, as `Europe/Berlin`.")
    silent_s: float = Field(300.0, gt=0, description="Seconds without a part after which the camera counts as silent.")

    @field_validator("starts")
    @classmethod
    def _times_in_order(cls, starts: tuple[str, ...]) -> tuple[str, ...]:
        for start in starts:
            hours, _, minutes = start.partition(":")
            if not (hours.isdigit() and minutes.isdigit() and len(start) == 5 and hours < "24" and minutes < "60"):
                raise ValueError(f"{start} is no time of the day, as 06:00")
        if list(starts) != sorted(set(starts)):
            raise ValueError("times of the day, each once and in order")
        return starts

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError) as problem:
            raise ValueError(f"no time zone {zone}") from problem
        return zone


class DriftSettings(Section):
    """Whether parts look unlike those trained on."""

    parts: int = Field(50, ge=5, le=1000, description="The last so many measured parts are compared.")
    every: int = Field(10, ge=1, description="Of so many parts one is measured; it takes a moment of a worker's time.")
    single: bool = Field(
        True,
        description="Where nothing else waits, a part is measured by itself too, after its verdict was answered: Live "
        "says of one that it is unlike the good ones trained on.",
    )


class StationSettings(Section):
    """All settings of a station."""

    name: str = Field("station", max_length=100, description="Shown on the page and in reports.")
    verdict: VerdictSettings = VerdictSettings()
    limits: LimitSettings = LimitSettings()
    queue: QueueSettings = QueueSettings()
    workers: WorkerSettings = WorkerSettings()
    keep: KeepSettings = KeepSettings()
    shift: ShiftSettings = ShiftSettings()
    drift: DriftSettings = DriftSettings()

    @model_validator(mode="after")
    def _deadlines_fit(self) -> StationSettings:
        if self.queue.deadline_s > self.queue.max_deadline_s:
            raise ValueError("queue.deadline_s is longer than queue.max_deadline_s")
        return self


def load_settings(file: Path | None = None, overrides: list[str] | None = None) -> StationSettings:
    """Read `station.toml`, None for the usual settings, and apply `section.name=value`. Raises ConfigError."""
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = toml_values(file.read_text(encoding="utf-8"), str(file))
        except FileNotFoundError as problem:
            raise ConfigError(f"there is no file {file}; expected a station's settings in TOML") from problem
        except (OSError, UnicodeDecodeError) as problem:
            raise ConfigError(f"{file} cannot be read as UTF-8 text; expected a station's settings") from problem
    for override in overrides or []:
        if override.partition("=")[0].strip() == "name":
            values["name"] = override.partition("=")[2].strip().strip('"')
        else:
            apply_override(values, override)
    return checked(StationSettings, values, str(file or "settings"), "docs/station.md")
