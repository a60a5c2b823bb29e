"""A station in one tar file: records and tokens as JSON lines, pictures, models. Fits any database."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from flawmap.errors import StationError
from flawmap.station.audit import Audit, audit
from flawmap.station.files import Pictures, is_id, private, private_file, to_disk
from flawmap.station.models import ref_of, used
from flawmap.station.record import FORMAT, Record, head, records, tokens, url_of

NOTE = "station.json"
TABLES = {"tokens": tokens, "head": head, "records": records}
AT_ONCE = 1000


def backup(record: Record, data: Path, out: Path, models: Path | None, overwrite: bool) -> tuple[int, int]:
    """Write `out`, whole or not at all; (records, pictures) in it. The station may run. Raises StationError."""
    if out.exists() and not overwrite:
        raise StationError(f"{out} exists; choose another OUT, or --overwrite it")
    if not data.is_dir():
        raise StationError(f"there is no folder {data}, where the station keeps its pictures; give its --data")
    saving = out.with_name(f".{out.name}.saving")
    try:
        saving.unlink(missing_ok=True)  # left by a killed backup
        private_file(saving)  # the tokens' hashes and every picture are in it
        with tarfile.open(saving, "w", format=tarfile.PAX_FORMAT, dereference=True) as tar:
            _add(tar, NOTE, json.dumps({"format": FORMAT}).encode())
            with record.reading() as connection:  # one state of all tables
                count = 0
                for name, table in TABLES.items():
                    for number, lines in enumerate(_lines(connection, table)):
                        _add(tar, f"{name}/{number:08d}.jsonl", "".join(lines).encode())
                        count += len(lines) if name == "records" else 0
            pictures = 0
            for kept in Pictures(data / "pictures").kept():
                place = data / "pictures" / kept.ident[:2]
                for file in place.glob(f"{kept.ident}*"):
                    with contextlib.suppress(FileNotFoundError):  # thinned out meanwhile
                        tar.add(file, f"pictures/{kept.ident[:2]}/{file.name}")
                        pictures += 1
            for name, folder in {"datasets": data / "datasets", **({"models": models} if models else {})}.items():
                for file in sorted(folder.rglob("*")):
                    inside = file.relative_to(folder)
                    if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                            tar.add(file, f"{name}/{inside.as_posix()}")
        to_disk(saving)
        saving.replace(out)
    except OSError as problem:
        raise StationError(f"cannot write {out}: {problem.strerror or problem}") from problem
    finally:
        with contextlib.suppress(OSError):
            saving.unlink()
    return count, pictures


class Restored(NamedTuple):
    """What was restored: how the chain is; by their refs the models in the backup, and the one in use ("": none)."""

    audit: Audit
    models: set[str]
    used: str


def restore(source: Path, data: Path, database: str | None, models: Path | None) -> Restored:
    """Put a backup into an empty `data` and database, and walk the chain. Raises StationError."""
    if data.exists() and any(data.iterdir()):
        raise StationError(f"{data} is not empty; restore into a new folder")
    if models is not None and models.exists() and any(models.iterdir()):
        raise StationError(f"{models} is not empty; restore into a new folder")
    try:
        with tarfile.open(source, "r") as tar:
            note = tar.extractfile(NOTE)
            if note is None or int(json.loads(note.read())["format"]) > FORMAT:
                raise StationError(f"{source} was written by a newer flawmap; update this one")
            data.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("pictures", "datasets"):
                private(data / name)
            record = Record(url_of(data, database))
            try:
                held = _fill(tar, record, data, models)
                found, refs = audit(record), used(record)
            finally:
                record.close()
    except (tarfile.TarError, SQLAlchemyError, KeyError, ValueError, TypeError, AttributeError) as problem:
        raise StationError(f"{source} is not a whole backup of a station; take another one") from problem
    except OSError as problem:
        raise StationError(f"cannot restore {source}: {problem.strerror or problem}") from problem
    if not found.whole:
        raise StationError(f"the chain in {source} is broken: {found.faults[0]}")
    return Restored(found, held, refs[-1] if refs else "")


def _fill(tar: tarfile.TarFile, record: Record, data: Path, models: Path | None) -> set[str]:
    """Put everything in its place; the models that the backup holds, also where they are left out."""
    held = set()
    with record.writing() as connection:
        if connection.execute(sa.select(sa.func.count()).select_from(records)).scalar():
            raise StationError("the database holds a record already; restore into an empty one")
        connection.execute(head.delete())
        for member in tar:
            kind, _, rest = member.name.partition("/")
            if kind in TABLES:
                lines = tar.extractfile(member)
                if lines is None:
                    raise ValueError(f"{member.name} is no file")
                rows = [json.loads(line) for line in lines.read().splitlines()]
                if rows:
                    connection.execute(TABLES[kind].insert(), rows)
            elif (kind == "pictures" and is_id(Path(rest).name[:32]) and member.isfile()) or kind == "datasets":
                tar.extract(member, data, filter=_private)
            elif kind == "models" and rest:
                held.add(ref_of(rest.partition("/")[0]))
                if models is None:
                    continue
                member.name = rest
                models.mkdir(parents=True, exist_ok=True)
                tar.extract(member, models, filter="data")
    return {ref for ref in held if ref is not None}


def _private(member: tarfile.TarInfo, place: str) -> tarfile.TarInfo:
    """A file of a backup, for this user alone, whatever it was when it was backed up."""
    return tarfile.data_filter(member, place).replace(mode=0o600 if member.isfile() else 0o700)


def _lines(connection: Connection, table: sa.Table) -> Iterator[list[str]]:
    """The rows of a table as JSON lines, AT_ONCE at a time, in order."""
    chosen = sa.select(table).order_by(*table.primary_key.columns)
    result = connection.execution_options(yield_per=AT_ONCE).execute(chosen)
    for rows in result.mappings().partitions(AT_ONCE):
        yield [json.dumps(dict(row)) + "\n" for row in rows]


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> Any:
    info = tarfile.TarInfo(name)
    info.size, info.mtime = len(data), int(time.time())
    tar.addfile(info, io.BytesIO(data))
