"""What a watch of a folder remembers, and its table: both survive a kill, and neither tells a file twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flawmap.errors import StationError
from flawmap.station.files import private_file
from flawmap.tables import MARK, Style, chosen_style, line_of

COLUMNS = (
    "file",
    "time",
    "verdict",
    "score",
    "threshold",
    "p_value",
    "model",
    "regions",
    "id",
    "sha256",
    "error",
    "key",
)

Result = dict[str, Any]
_KEY = re.compile(rb'"[0-9a-f]{64}"\r?$')  # the last cell of a whole line


@dataclass(frozen=True)
class Arrived:
    """A complete file: its path, name under the watched folder, and what tells it from one written later."""

    path: Path
    name: str
    size: int
    changed: int  # nanoseconds

    @property
    def key(self) -> str:
        """By which this very file is known, also to the service."""
        return hashlib.sha256(
            f"{self.name}\0{self.size}\0{self.changed}".encode("utf-8", "surrogateescape")
        ).hexdigest()


class Seen:
    """What was done, in a SQLite file that survives a kill."""

    def __init__(self, file: Path) -> None:
        with contextlib.suppress(OSError):  # SQLite says what is wrong
            private_file(file)
        try:
            self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS seen (key TEXT PRIMARY KEY, name TEXT, state TEXT, result TEXT)"
            )
            # Held as long as the watch runs: a second one on the same folder is refused.
            self._lock = sqlite3.connect(
                file.with_name(f"{file.name}.lock"), isolation_level=None, timeout=0, check_same_thread=False
            )
            self._lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as problem:
            if "locked" in str(problem):
                raise StationError(f"another watch works with {file}; stop it first") from problem
            raise StationError(
                f"cannot keep track in {file}: {problem}; choose a --state that can be written"
            ) from problem
        except sqlite3.DatabaseError as problem:
            raise StationError(f"{file} is not the state of a watch; choose another --state") from problem

    def state(self, key: str) -> str | None:
        """`begun`, `found`, `done`, or None for a file never seen."""
        row = self._connection.execute("SELECT state FROM seen WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def result(self, key: str) -> Result | None:
        """What was found before a kill, and not yet handed over."""
        row = self._connection.execute("SELECT result FROM seen WHERE key = ?", (key,)).fetchone()
        return None if row is None or row[0] is None else dict(json.loads(row[0]))

    def note(self, arrived: Arrived, state: str, result: Result | None = None) -> None:
        """How far a file has come; on the disk when this returns."""
        name = arrived.name.encode("utf-8", "backslashreplace").decode()
        text = None if result is None or state == "done" else json.dumps(result)
        self._connection.execute(
            "INSERT INTO seen VALUES (?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET state = excluded.state, "
            "result = excluded.result",
            (arrived.key, name, state, text),
        )

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()
        self._lock.close()


class Table:
    """A csv that grows by a whole line at a time; a line is there once, also after a kill."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._keys: set[str] = set()
        try:
            self._stream = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            known = file.read_bytes()
        except OSError as problem:
            raise StationError(f"cannot write {file}: {problem.strerror}") from problem
        self._style, begins = chosen_style(), known.removeprefix(MARK.encode()).partition(b"\n")[0]
        if not known:
            self._append(COLUMNS)
            return
        whole, _, cut = known.rpartition(b"\n")
        separator = next((each for each in (",", ";") if begins.replace(b'"', b"") == each.join(COLUMNS).encode()), "")
        if not separator:
            os.close(self._stream)
            raise StationError(f"{file} is another table; choose another --csv")
        self._style = Style(separator, separator == ";")  # a table goes on as it began
        if cut and (not whole or _KEY.search(cut)):  # an editor left the last line's end out
            self._write("\n")
            whole = known
        elif cut:  # a line that was cut by a loss of power
            os.ftruncate(self._stream, len(whole) + 1)
        self._keys = {
            line.rpartition(separator.encode())[2].strip().strip(b'"').decode(errors="replace")
            for line in whole.split(b"\n")
        }

    def give(self, result: Result) -> None:
        """Append a line, unless it is there."""
        if result["key"] not in self._keys:
            cells = [result.get(name) for name in COLUMNS]
            self._append([len(cell) if isinstance(cell, list) else cell for cell in cells])
            self._keys.add(result["key"])

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._stream)

    def _append(self, cells: Sequence[Any]) -> None:
        text = (MARK if self._style.mark else "") + line_of(cells, self._style, "\n")
        self._style = self._style._replace(mark=False)
        self._write(text)

    def _write(self, text: str) -> None:
        try:
            os.write(self._stream, text.encode("utf-8", "backslashreplace"))  # one write: whole or not
            os.fsync(self._stream)
        except OSError as problem:
            raise StationError(f"cannot write {self.file}: {problem.strerror}") from problem
