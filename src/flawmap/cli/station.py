"""Commands of an inspection station: serve, token, audit, backup, restore, watch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flawmap.cli import console
from flawmap.cli.options import Database, Device, Overwrite, Runtime_, Set, StationData
from flawmap.errors import ConfigError

if TYPE_CHECKING:
    from flawmap.station.record import Record


@console.command("serve", "what was answered is in the record")
def serve_command(
    models: Annotated[Path, typer.Option("--models", metavar="DIR", help="A folder of bundles.")],
    data: StationData = Path("station"),
    host: Annotated[str, typer.Option("--host", help="Beyond this machine only with tokens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    database: Database = None,
    config: Annotated[Path | None, typer.Option("--config", help="Settings of the station, a TOML file.")] = None,
    settings: Set = None,
    certificate: Annotated[Path | None, typer.Option("--certificate", help="For https, PEM.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="The certificate's key, PEM.")] = None,
) -> None:
    """Run an inspection station: verdicts over HTTP, a live view, and a record of every part."""
    from flawmap.station.serve import serve
    from flawmap.station.settings import load_settings

    serve(models, data, host, port, database, load_settings(config, settings), certificate, key)


@console.command("token", "nothing was changed")
def token_command(
    action: Annotated[str, typer.Argument(metavar="ACTION", help="`add`, `list` or `revoke`.")],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Whose token.")] = None,
    role: Annotated[str, typer.Option("--role", help="`camera`, `operator` or `engineer`.")] = "",
    data: StationData = Path("station"),
    database: Database = None,
) -> None:
    """Say who may use a station. A new token is shown once."""
    from flawmap.station.access import add_token, list_tokens, revoke_token

    if action not in ("add", "list", "revoke"):
        raise ConfigError(f"no action {action}; there are: add, list, revoke")
    if (name is None) != (action == "list"):
        raise ConfigError("token list takes no name" if name else f"token {action} takes the NAME of the token")
    if (role != "") != (action == "add"):
        raise ConfigError("--role is for token add alone" if role else "token add takes --role")
    with _record(data, database, new=action == "add") as record:
        if name is None:
            for known in list_tokens(record):
                ended = f"revoked {known['revoked'][:19]}" if known["revoked"] else ""
                console.say(f"{known['name']:<24} {known['role']:<9} added {known['added'][:19]} {ended}".rstrip())
        elif action == "add":
            console.say(add_token(record, name, role))
            console.remark(f"the token of {name}, shown this once; hand it over, and keep it secret")
        else:
            revoke_token(record, name)
            console.say(f"revoked the token of {name}")


@console.command("audit", "nothing was changed")
def audit_command(
    data: StationData = Path("station"),
    database: Database = None,
    head: Annotated[
        str | None, typer.Option("--head", metavar="HASH", help="A hash noted earlier, which must still be there.")
    ] = None,
) -> None:
    """Walk the chain of the record. Exit code 1 when a row was edited, removed or inserted."""
    from flawmap.errors import StationError
    from flawmap.station.audit import audit

    with _record(data, database) as record:
        found = audit(record, head)
    for fault in found.faults:
        console.say(fault)
    if not found.records and found.whole:
        raise StationError(f"{record.place} holds no record yet; give the --data or --database of a station")
    told = "the chain is whole" if found.linked else "the chain is broken"
    console.say(
        f"{found.records} records, {told}{'' if found.whole or not found.linked else ', without the hash noted'}"
    )
    console.say(f"head {found.head}")
    if not found.whole:
        raise typer.Exit(1)


@console.command("backup", "nothing was written")
def backup_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .tar file.")],
    data: StationData = Path("station"),
    database: Database = None,
    models: Annotated[Path | None, typer.Option("--models", metavar="DIR", help="The models, too.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Copy record, tokens and pictures of a station into one file, while it runs if it does."""
    from flawmap.station.backup import backup

    with _record(data, database) as record:
        count, pictures = backup(record, data, out, models, overwrite)
    console.say(f"wrote {out}: {count} records, {pictures} pictures")


@console.command("restore", "what was restored so far remains; delete it before trying again")
def restore_command(
    source: Annotated[Path, typer.Argument(metavar="OUT", help="What `flawmap backup` wrote.")],
    data: StationData = Path("station"),
    database: Database = None,
    models: Annotated[Path | None, typer.Option("--models", metavar="DIR", help="Where the models go.")] = None,
) -> None:
    """Put a backup back into an empty place, and walk its chain."""
    from flawmap.station.backup import restore

    found = restore(source, data, database, models)
    console.say(f"restored {found.audit.records} records, the chain is whole")
    console.say(f"head {found.audit.head}")
    if found.models and models is None:
        left = ", ".join(sorted(found.models))
        console.remark(
            f"left out the models in it ({left}); serve with a folder that has them, or restore with --models DIR"
        )
    elif found.used and found.used not in found.models:
        console.remark(
            f"the backup does not hold the model in use, {found.used}; serve with a folder of models that has it"
        )


@console.command("watch", "go on with the same command; what is done is kept")
def watch_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where a camera writes.")],
    model: Annotated[Path | None, typer.Option("--model", metavar="BUNDLE", help="Inspect here, by this.")] = None,
    server: Annotated[str | None, typer.Option("--server", metavar="URL", help="Have a station inspect.")] = None,
    token: Annotated[
        str | None, typer.Option("--token", envvar="FLAWMAP_TOKEN", help="For it; safer in FLAWMAP_TOKEN.")
    ] = None,
    ca: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="What certificates of station and broker are trusted by, PEM."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Of pass, reject, doubt, failed; default: DIR.")
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Move each file to the folder of its verdict.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copy it there.")] = False,
    table: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="A line for each file.")] = None,
    mqtt: Annotated[str | None, typer.Option("--mqtt", metavar="URL", help="mqtt://HOST/TOPIC.")] = None,
    lot: Annotated[str | None, typer.Option("--lot", help="Told to the station.")] = None,
    doubt: Annotated[
        float, typer.Option("--doubt", min=0, max=1, help="With --model: doubt about the threshold.")
    ] = 0.02,
    state: Annotated[Path | None, typer.Option("--state", help="What is done; default: a hidden file in DIR.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Stop when all files are done.")] = False,
    device: Device = "auto",
    runtime: Runtime_ = "torch",
) -> None:
    """Inspect each new file of a folder once, as a camera writes them.

    With --once exit code 1 when any failed, 2 when hidden images were passed over.
    """
    from flawmap.data.layouts import refuse_no_folder
    from flawmap.station.client import Client
    from flawmap.station.mqtt import Broker
    from flawmap.station.seen import Table
    from flawmap.station.watch import PATIENCE_S, Sink, Watch, by_bundle, by_server, stopped_by_signals

    if (model is None) == (server is None):
        raise ConfigError("give --model BUNDLE or --server URL, one of them")
    if move and copy:
        raise ConfigError("--move and --copy exclude each other")
    if out is not None and not (move or copy):
        raise ConfigError("--out is for --move or --copy")
    encrypted = (server, "https:"), (mqtt, "mqtts:")
    if ca is not None and not any((url or "").lower().startswith(scheme) for url, scheme in encrypted):
        raise ConfigError("--ca is for --server with https:// and for --mqtt with mqtts://")
    refuse_no_folder(folder, "a folder that a camera writes to")
    with ExitStack() as opened:
        if server is not None:
            client = Client(server, token, timeout=PATIENCE_S, ca=ca, say=console.remark)
            opened.callback(client.close)
            inspect = by_server(client, lot)
        else:
            assert model is not None
            inspect = by_bundle(model, runtime, device, doubt, console.remark)
        sinks: list[Sink] = []
        if table is not None:
            sinks.append(Table(table))
            opened.callback(sinks[-1].close)
        if mqtt is not None:
            sinks.append(Broker(mqtt, ca))
            opened.callback(sinks[-1].close)
        place = (out or folder) if move or copy else None
        watch = Watch(folder, inspect, sinks, out=place, move=move, state=state, say=console.say)
        opened.callback(watch.close)
        with stopped_by_signals(watch):
            done = watch.run(once)
    failed = f", {watch.failed} of them failed" if watch.failed else ""
    console.say(f"{done} files inspected{failed}" + (f", {watch.passed_over} passed over" if watch.passed_over else ""))
    if once:
        console.refuse_passed_over(watch.hidden_images)
    if once and watch.failed:
        raise typer.Exit(1)


@contextmanager
def _record(data: Path, database: str | None, new: bool = False) -> Iterator[Record]:
    """The record of a station; where it is `new`, one is made if there is none, and that is said."""
    from flawmap.errors import StationError
    from flawmap.station.record import Record, url_of

    if new and database is None:
        try:
            data.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as problem:
            raise StationError(f"cannot write to {data}: {problem.strerror}") from problem
    record = Record(url_of(data, database), new)
    if record.made:
        console.remark(f"made a new record in {record.place}")
    try:
        yield record
    finally:
        record.close()
