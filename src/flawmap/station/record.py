"""The record: a row for every verdict, decision, change of model and of tokens, chained by hashes, never edited.

A row's hash is the SHA-256 of the canonical JSON of all its other columns, the hash of the row before among them. So a
row that is edited, removed or inserted later shows (audit.py); the table `head` tells the last row, so that one cut off
the end shows too. Rows are appended one transaction after the other, whoever writes: SQLite takes its write lock at
the start (BEGIN IMMEDIATE), PostgreSQL locks the head's row. Entries that wait together share a transaction.

The line, which is parts on their way to a verdict, has connections of its own (`line`): whoever reads a long report
does not keep a part waiting for one.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from flawmap.errors import StationError
from flawmap.station.files import private_file

SUPPORTED = "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
FORMAT = 1  # of the tables; raised when an older flawmap could no longer read what a newer one writes
START = "0" * 64  # the hash before the first row
TOGETHER = 64  # entries in one transaction, at most
AGAIN_S = 2.0  # after which what must be recorded is tried again, where the database would not have it
KEPT = 10_000  # entries that wait for that; what is beyond them stands in the log alone

log = logging.getLogger("flawmap.station")
metadata = sa.MetaData()
records = sa.Table(
    "records",
    metadata,
    sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.String(16), nullable=False),  # verdict, late, refused; test, test-late, …; decision, …
    sa.Column("time", sa.String(27), nullable=False),
    sa.Column("part", sa.String(32)),
    sa.Column("verdict", sa.String(8)),
    sa.Column("score", sa.Double),
    sa.Column("threshold", sa.Double),
    sa.Column("model", sa.String(200)),
    sa.Column("image_sha256", sa.String(64)),
    sa.Column("who", sa.String(100)),
    sa.Column("camera", sa.String(100)),
    sa.Column("label", sa.String(100)),
    sa.Column("lot", sa.String(100)),
    sa.Column("once", sa.String(201), unique=True),  # a sender's key, by which a repeated request is known
    sa.Column("body", sa.Text, nullable=False),  # the rest, as JSON
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Index("records_kind", "kind", "seq"),
    sa.Index("records_part", "part", "kind", "seq"),
    # Each holds all that is asked in its order: a look at the row itself costs ten times one at an index.
    sa.Index("records_by_time", "kind", "time", "seq", "verdict"),
    sa.Index("records_by_verdict", "kind", "verdict", "seq", "part"),
    sa.Index("records_by_lot", "kind", "lot", "seq"),
    sa.Index("records_by_score", "kind", "model", "score", "seq"),
)
sa.Index("records_by_serial", records.c.kind, sa.func.lower(records.c.label), records.c.seq)
FORMER = (  # indexes of before
    "records_time", "records_verdict", "records_lot", "records_label", "records_score", "records_by_label",
)  # fmt: skip
head = sa.Table(
    "head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("format", sa.Integer, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
)
tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(8), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("salt", sa.String(32), nullable=False),
    sa.Column("hash", sa.String(64), nullable=False),
    sa.Column("added", sa.String(27), nullable=False),
    sa.Column("revoked", sa.String(27)),
)
COLUMNS = tuple(column.name for column in records.columns)

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """What is to be recorded; time, place in the chain and hash are given to it when it is."""

    kind: str
    body: dict[str, Any]
    part: str | None = None
    verdict: str | None = None
    score: float | None = None
    threshold: float | None = None
    model: str | None = None
    image_sha256: str | None = None
    who: str | None = None
    camera: str | None = None
    label: str | None = None
    lot: str | None = None
    once: str | None = None


@dataclass
class _Waiting:
    """An entry that waits. ends: on the monotonic clock; `late` is recorded instead from then on. must: till it is."""

    entry: Entry
    ends: float = float("inf")
    late: Callable[[], Entry] | None = None
    must: bool = False
    done: Future[Row] = field(default_factory=Future)

    def due(self) -> Entry:
        """What is recorded at this moment."""
        return self.late() if self.late is not None and time.monotonic() > self.ends else self.entry


def now() -> str:
    """The time, UTC, as recorded: sorts as text."""
    return stamp(datetime.datetime.now(datetime.UTC))


def stamp(time: datetime.datetime) -> str:
    """A time with a zone, as recorded."""
    return time.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def canonical(row: Row) -> str:
    """The JSON that a row's hash is taken of: all columns but the hash itself, names sorted, no white space."""
    return json.dumps(
        {name: row[name] for name in COLUMNS if name != "hash"},
        sort_keys=True,
        separators=(",", ":"),
        allow_nan=False,
    )


def hash_of(row: Row) -> str:
    """SHA-256 of the canonical JSON of a row."""
    return hashlib.sha256(canonical(row).encode()).hexdigest()


class Record:
    """An open record. `url`: of SQLAlchemy; SQLite and PostgreSQL are tested. Raises StationError.

    Threads may share it. `submit` appends from a thread of its own, several entries to a transaction. `new`: whether
    one is made where there is none, and gets what it lacks; `made` tells that it was.
    """

    made = False

    def __init__(self, url: str, new: bool = True) -> None:
        self.engine, self.line = _engine(url), _engine(url)
        self.place = place_of(self.engine)
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        self._again: list[_Waiting] = []  # used by the writer's thread alone
        try:
            if not new and not _holds_record(self.engine):
                self.engine.dispose()
                self.line.dispose()
                raise StationError(f"{self.place} holds no record; give the --data or --database of a station")
            if new:
                _only_ours(self.engine)
                metadata.create_all(self.engine)
                with self.writing() as connection:
                    _index(connection)
                    self.made = connection.execute(sa.select(head.c.id)).scalar() is None
                    if self.made:
                        connection.execute(head.insert().values(id=1, format=FORMAT, seq=0, hash=START))
            with self.reading() as connection:
                known = connection.execute(sa.select(head.c.format)).scalar()
        except SQLAlchemyError as problem:
            raise StationError(f"the database {self.place} cannot be used: {reason(problem)}") from problem
        if known is not None and known > FORMAT:
            raise StationError(f"the record is of format {known}, this flawmap knows up to {FORMAT}; update flawmap")

    @contextmanager
    def reading(self, line: bool = False) -> Iterator[Connection]:
        """A transaction that sees one state. `line`: for a part on its way to a verdict."""
        with (self.line if line else self.engine).connect() as connection:
            if connection.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection

    @contextmanager
    def writing(self, line: bool = False) -> Iterator[Connection]:
        """A transaction that no other writer shares; committed at the end."""
        with (self.line if line else self.engine).connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def append(self, entries: Sequence[Entry]) -> list[Row]:
        """Append entries in one transaction; on return they are on the disk."""
        with self.writing() as connection:
            return append_to(connection, entries)

    def submit(
        self, entry: Entry, ends: float = float("inf"), late: Callable[[], Entry] | None = None, must: bool = False
    ) -> Future[Row]:
        """Append soon, together with what else waits; the future has the row once it is on the disk.

        `late`: makes what is recorded instead where its transaction begins after `ends`, of the monotonic clock.
        `must`: tried again where the database would not have it, until the record is closed.
        """
        with self._lock:
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="record", daemon=True)
                self._writer.start()
        waiting = _Waiting(entry, ends, late, must)
        self._waiting.put(waiting)
        return waiting.done

    def _write(self) -> None:
        ends = False
        while not ends:
            try:
                first = self._waiting.get(timeout=AGAIN_S if self._again else None)
            except queue.Empty:
                first = None
            else:
                ends = first is None
            group = [] if first is None else [first]
            while not ends and len(group) < TOGETHER and not self._waiting.empty():
                more = self._waiting.get()
                if more is None:
                    ends = True
                    break
                group.append(more)
            # One whose request was cut off meanwhile is left out: nobody was told of it.
            group = [waiting for waiting in group if waiting.done.set_running_or_notify_cancel()]
            again, self._again = self._again, []
            self._write_all([*again[:TOGETHER], *group])
            self._again += again[TOGETHER:]
        while self._again:
            again, self._again = self._again, []
            self._write_all(again[:TOGETHER])
            if self._again:
                log.error("%d late or refused images are in the log alone", len(self._again) + len(again[TOGETHER:]))
                return
            self._again = again[TOGETHER:]

    def _write_all(self, group: list[_Waiting]) -> None:
        if not group:
            return
        try:
            with self.writing(line=True) as connection:  # what waited for the lock may be late by now
                rows = append_to(connection, [waiting.due() for waiting in group])
        except Exception as problem:  # whatever it is, those who wait must be told
            if len(group) > 1 and not isinstance(problem, SQLAlchemyError):
                for waiting in group:  # one that cannot be written must not take the others with it
                    self._write_all([waiting])
                return
            for waiting in group:
                if waiting.must and isinstance(problem, SQLAlchemyError):
                    if len(self._again) < KEPT:
                        self._again.append(waiting)
                else:
                    waiting.done.set_exception(problem)
        else:
            for waiting, row in zip(group, rows, strict=True):
                waiting.done.set_result(row)

    def close(self) -> None:
        """Finish what waits, and let go of the database."""
        with self._lock:
            if self._writer is not None:
                self._waiting.put(None)
                self._writer.join()
                self._writer = None
        self.engine.dispose()
        self.line.dispose()


def _holds_record(engine: Engine) -> bool:
    """Whether a database has the tables of a record; nothing is made by asking."""
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        return False
    plain = sa.create_engine(engine.url)  # ours sets a file of SQLite up for writing
    try:
        known = sa.inspect(plain).get_table_names()
    finally:
        plain.dispose()
    return all(table in known for table in metadata.tables)


def _index(connection: Connection) -> None:
    """Give a record of an older flawmap the indexes of this one."""
    for name in FORMER:
        connection.execute(sa.text(f"DROP INDEX IF EXISTS {name}"))
    for index in records.indexes:
        connection.execute(sa.schema.CreateIndex(index, if_not_exists=True))


def append_to(connection: Connection, entries: Sequence[Entry]) -> list[Row]:
    """Append entries within a transaction of `Record.writing`. One whose `once` is known gives the row it has."""
    last = connection.execute(sa.select(head.c.seq, head.c.hash).with_for_update()).one()
    seq, previous = int(last.seq), str(last.hash)
    keys = [entry.once for entry in entries if entry.once is not None]
    known: dict[str, Row] = {}
    if keys:
        found = connection.execute(sa.select(records).where(records.c.once.in_(keys))).mappings()
        known = {str(row["once"]): dict(row) for row in found}
    rows, added = [], []
    for entry in entries:
        if entry.once is not None and entry.once in known:
            rows.append(known[entry.once])
            continue
        seq += 1
        row: Row = dict(vars(entry)) | {"seq": seq, "time": now(), "previous": previous}
        row["body"] = json.dumps(entry.body, sort_keys=True, allow_nan=False)
        row["hash"] = previous = hash_of(row)
        if entry.once is not None:
            known[entry.once] = row
        rows.append(row)
        added.append(row)
    if added:
        connection.execute(records.insert(), added)
        connection.execute(head.update().values(seq=seq, hash=previous))
    return rows


def url_of(data: Path, database: str | None) -> str:
    """The database's URL: the one given, or SQLite in the folder `data`."""
    return database or f"sqlite:///{(data / 'record.sqlite').absolute()}"


def place_of(engine: Engine) -> str:
    """The database in words: a file, or its URL without password and options, which may hold one."""
    if engine.dialect.name == "sqlite":
        return str(engine.url.database)
    return engine.url.set(drivername=engine.dialect.name, query={}).render_as_string(hide_password=True)


def reason(problem: Exception) -> str:
    """The one line of a database's complaint, without its statement and parameters."""
    origin = getattr(problem, "orig", None) or problem
    return (str(origin).strip().splitlines() or [type(origin).__name__])[0]


def _only_ours(engine: Engine) -> None:
    """Make a file of SQLite readable by this user alone; its -wal and -shm get the mode that it has.

    Where it belongs to somebody else it stays as it is. Nothing is made: SQLite says what is wrong with a folder.
    """
    if engine.dialect.name != "sqlite" or not engine.url.database or engine.url.database == ":memory:":
        return
    with contextlib.suppress(OSError):
        for ending in ("", "-wal", "-shm"):
            file = Path(f"{engine.url.database}{ending}")
            if ending == "" or file.exists():
                private_file(file)


def _engine(url: str) -> Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":  # the driver that flawmap[postgresql] brings
            parsed = parsed.set(drivername="postgresql+psycopg")
        kind = parsed.get_backend_name()
        if kind not in ("sqlite", "postgresql"):
            raise StationError(f"--database {kind}:// is not supported; expected {SUPPORTED}")
        lite = kind == "sqlite"
        if not lite and "@" in f"{parsed.host}{parsed.database}":  # a password would go into messages
            raise StationError("--database holds an @ too many; write one of a password as %40, or use PGPASSWORD")
        # A database that has gone without a word is noticed, and whoever locks it waited for, half a minute at most.
        away: dict[str, Any] = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
        if not lite and "options" not in parsed.query:
            away["options"] = "-c lock_timeout=30s"
        options: dict[str, Any] = {"connect_args": {"timeout": 30} if lite else away, "pool_pre_ping": not lite}
        engine = sa.create_engine(parsed, **options)
    except ModuleNotFoundError as problem:
        raise StationError(
            f"the database needs the package {problem.name}; pip install 'flawmap[postgresql]'"
        ) from problem
    except (ArgumentError, NoSuchModuleError, ValueError) as problem:
        raise StationError(f"--database is no URL of a database; expected {SUPPORTED}") from problem
    if lite:
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _: Any) -> None:
    assert isinstance(connection, sqlite3.Connection)
    connection.isolation_level = None  # we begin transactions ourselves
    connection.execute("PRAGMA journal_mode=WAL")
    connection.create_function("lower_all", 1, _lower, deterministic=True)
    connection.execute("PRAGMA synchronous=FULL")  # a commit is on the disk, also when the power fails


def _lower(text: str | None) -> str | None:
    """A text in small letters; SQLite's own `lower` knows those of English alone."""
    return None if text is None else text.lower()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
