"""What flawmap raises when a user can put it right. Each message is one line that says what to do.

FlawmapError
├── ConfigError        a recipe or a setting
├── DataError          images, masks, folders
│   ├── ImageError     one file
│   └── LayoutError    a folder's structure
├── BundleError        a bundle that cannot be read or written
│   ├── CheckpointError   a foreign or half-finished checkpoint
│   └── DisagreementError   an export that does not find what PyTorch finds
├── StationError       the inspection station: its record, its tokens, its answers
│   └── StationAwayError   it cannot be reached, or does not answer
└── TrainingError      a training that cannot start or go on

The command line prints the message and exits with 2; anything else is a defect of flawmap and shows its traceback.
"""

from __future__ import annotations


class FlawmapError(Exception):
    """A mistake the user can correct; str() is one line, also where a name in it holds line breaks."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class ConfigError(FlawmapError):
    """A recipe or setting that is unknown, out of range or unreadable."""


class DataError(FlawmapError):
    """Images, masks or folders that cannot be used as they are."""


class ImageError(DataError):
    """One file that is not a usable image or mask; the message names it."""


class LayoutError(DataError):
    """A folder whose structure is not understood, or that lacks what is needed."""


class BundleError(FlawmapError):
    """A bundle that is missing, damaged, of another version, or in the way."""


class CheckpointError(BundleError):
    """A checkpoint, ours or the authors', whose files, keys or shapes are not those expected."""


class DisagreementError(BundleError):
    """An export that does not find what PyTorch finds, and was not handed over; `fault` says how it differs."""

    def __init__(self, message: str, fault: str = "") -> None:
        super().__init__(message)
        self.fault = fault


class TrainingError(FlawmapError):
    """A training that cannot start or go on."""


class StationError(FlawmapError):
    """What an inspection station refuses, or why it cannot be reached; `status` is of HTTP, 0 where there is none.

    retry_after: seconds after which to try again, 0 where trying again is of no use
    code, values: what an operator may meet has a name that stays, and its figures, so that a page tells it in the
    reader's language (docs/station-api.md, Codes)
    """

    def __init__(
        self, message: str, status: int = 0, retry_after: float = 0.0, code: str = "", **values: str | float
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.retry_after, self.code, self.values = status, retry_after, code, values


class StationAwayError(StationError):
    """No station was reached, or it did not answer in time; this may pass."""


def one_line(text: object) -> str:
    """A text whose line breaks are shown as \\n: names of files and of classes may hold some."""
    return "\\n".join(str(text).splitlines())


def first_line(problem: BaseException) -> str:
    """The reason a problem gives, in one line, without the name of the file, which messages give themselves."""
    if isinstance(problem, OSError) and problem.strerror:
        return problem.strerror
    return (str(problem).splitlines() or [type(problem).__name__])[0]
