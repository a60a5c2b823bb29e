from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from station_helpers import Server, png
from typer.testing import CliRunner, Result

from flawmap import cli
from flawmap.errors import ConfigError
from flawmap.station.client import Client
from flawmap.station.record import Record, _engine
from flawmap.station.settings import StationSettings, load_settings


def run(*words: object) -> Result:
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def refused(*words: object) -> str:
    """The one line on stderr with which a command refuses."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    line = result.stderr.splitlines()[-1]  # `serve` logs before it
    assert [each.startswith("flawmap: ") for each in result.stderr.splitlines()].count(True) == 1
    assert line.startswith("flawmap: ")
    return line


@pytest.fixture(scope="module")
def station(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a station that inspected some parts, and was stopped: models and data."""
    folder = tmp_path_factory.mktemp("stopped")
    shutil.copytree(models, folder / "models")
    server = Server(folder / "models", folder / "data")
    with Client(server.url) as client:
        for number in range(4):
            part = client.inspect(png(number), label=f"part {number}")
        client.decide(part["id"], "pass", "fine")
        client.set_threshold(0.3)
    assert server.stop() == 0
    return folder


@pytest.fixture
def data(station: Path, tmp_path: Path) -> Path:
    """A station's data that a test may change."""
    return Path(shutil.copytree(station / "data", tmp_path / "data"))


def test_tokens_are_added_listed_and_revoked(tmp_path: Path) -> None:
    data = tmp_path / "data"
    added = run("token", "add", "anna", "--role", "engineer", "--data", data)
    assert added.exit_code == 0 and added.stdout.startswith("fm-") and len(added.stdout.split()) == 1
    run("token", "add", "cam 1", "--role", "camera", "--data", data)
    listed = run("token", "list", "--data", data).stdout
    assert "anna" in listed and "engineer" in listed and added.stdout.strip() not in listed
    assert run("token", "revoke", "anna", "--data", data).exit_code == 0
    assert "revoked" in run("token", "list", "--data", data).stdout
    assert "3 records, the chain is whole" in run("audit", "--data", data).stdout
    assert "no token anna" in refused("token", "revoke", "anna", "--data", data)
    assert "no role boss" in refused("token", "add", "x", "--role", "boss", "--data", data)
    assert "no action" in refused("token", "steal", "--data", data)
    assert "--role" in refused("token", "add", "x", "--data", data)
    assert "takes no name" in refused("token", "list", "x", "--data", data)


def test_a_new_record_is_made_by_token_add_alone_which_says_so(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for words in (["token", "list"], ["token", "revoke", "anna"], ["audit"], ["backup", tmp_path / "out.tar"]):
        assert f"{data / 'record.sqlite'} holds no record" in refused(*words, "--data", data)
    assert list(tmp_path.iterdir()) == []
    told = [run("token", "add", name, "--role", "camera", "--data", data).stderr for name in ("a", "b")]
    assert f"made a new record in {data / 'record.sqlite'}\n" in told[0]
    assert "new record" not in told[1]


def test_a_file_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "other.sqlite"
    database = sqlite3.connect(file)
    database.execute("CREATE TABLE records (a)")
    database.close()
    before = file.read_bytes()
    assert f"{file} holds no record" in refused("audit", "--database", f"sqlite:///{file}")
    assert (file.read_bytes(), list(tmp_path.iterdir())) == (before, [file])


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")  # of an index of ours, by SQLAlchemy
def test_audit_of_tables_without_a_row_says_that_there_is_no_record_and_makes_nothing(database: str) -> None:
    Record(database).close()  # as an older `flawmap audit` left them in an empty database
    assert "holds no record yet; give the --data or --database" in refused("audit", "--database", database)
    engine = _engine(database)
    for statement in ("DELETE FROM head", "DROP INDEX records_by_time"):
        with engine.begin() as connection:
            connection.execution_options(writes=True).execute(sa.text(statement))
    broken = run("audit", "--database", database)
    assert broken.exit_code == 1 and "the note of the last record is missing" in broken.stdout
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM head")).scalar() == 0
    assert "records_by_time" not in {index["name"] for index in sa.inspect(engine).get_indexes("records")}
    engine.dispose()


@pytest.mark.parametrize("action", ["audit", "backup", "list", "revoke"])
def test_a_database_without_a_record_is_refused_and_stays_empty(database: str, tmp_path: Path, action: str) -> None:
    words = {"audit": ["audit"], "backup": ["backup", tmp_path / "out.tar"]}.get(action, ["token", action])
    words += ["anna"] if action == "revoke" else []
    assert "holds no record" in refused(*words, "--database", database, "--data", tmp_path)
    assert not (tmp_path / "record.sqlite").exists() and not (tmp_path / "out.tar").exists()
    engine = _engine(database)
    assert sa.inspect(engine).get_table_names() == []
    engine.dispose()


def test_audit_ends_with_1_when_one_row_was_edited(data: Path) -> None:
    whole = run("audit", "--data", data)
    assert whole.exit_code == 0 and "the chain is whole" in whole.stdout
    noted = whole.stdout.split("head ")[1].strip()
    assert run("audit", "--data", data, "--head", noted).exit_code == 0
    assert "64 letters" in refused("audit", "--data", data, "--head", noted[:12])
    other = run("audit", "--data", data, "--head", "ab" * 32)
    assert other.exit_code == 1 and f"the hash {'ab' * 32} is not in this record: " in other.stdout
    assert "the chain is whole, without the hash noted" in other.stdout and "broken" not in other.stdout
    database = sqlite3.connect(data / "record.sqlite")
    database.execute("UPDATE records SET verdict = 'pass' WHERE seq = 3")
    database.commit()
    database.close()
    broken = run("audit", "--data", data)
    assert broken.exit_code == 1
    assert "record 3 was edited" in broken.stdout and "the chain is broken" in broken.stdout


@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
def test_a_backup_restored_elsewhere_is_the_same_station(
    station: Path, data: Path, tmp_path: Path, database: str
) -> None:
    out = tmp_path / "backup.tar"
    assert run("backup", out, "--data", data, "--models", station / "models").exit_code == 0
    assert out.stat().st_mode & 0o777 == 0o600, "tokens' hashes are in it"
    assert "exists" in refused("backup", out, "--data", data)
    record = f"sqlite:///{data / 'record.sqlite'}"
    none = tmp_path / "none"
    assert "no folder" in refused("backup", tmp_path / "b.tar", "--data", none, "--database", record)
    assert not none.exists()
    words: list[object] = ["restore", out, "--data", tmp_path / "again", "--models", tmp_path / "models"]
    words += [] if "sqlite" in database else ["--database", database]
    restored = run(*words)
    assert (restored.exit_code, restored.stderr) == (0, ""), restored.output
    head = restored.stdout.split("head ")[1].strip()
    assert head == run("audit", "--data", data).stdout.split("head ")[1].strip()
    assert "is not empty" in refused(*words)
    server = Server(
        tmp_path / "models",
        tmp_path / "again",
        *([] if "sqlite" in database else ["--database", database.replace("flawmap@", "flawmap:secret@")]),
    )
    place = str(tmp_path / "again") if "sqlite" in database else database.replace("flawmap@", "flawmap:***@")
    assert f"records in {place}\n" in server.log.read_text()
    with Client(server.url) as client:
        parts = list(client.parts(order="oldest"))
        assert [part["label"] for part in parts] == [f"part {number}" for number in range(4)]
        assert parts[-1]["final"] == "pass"
        assert client.picture(parts[0]["id"], "original") == png(0)
        assert client.models()["current"] == "part@2"
        client.inspect(png(9))
    assert server.stop() == 0


def test_a_restore_says_which_models_are_not_there(station: Path, tmp_path: Path) -> None:
    for name, models in (("with", ["--models", station / "models"]), ("without", [])):
        assert run("backup", tmp_path / f"{name}.tar", "--data", station / "data", *models).exit_code == 0
    told = {}
    for name, more in (("with", []), ("without", ["--models", tmp_path / "models"])):
        restored = run("restore", tmp_path / f"{name}.tar", "--data", tmp_path / name, *more)
        assert restored.exit_code == 0 and len(restored.stderr.splitlines()) == 1
        told[name] = restored.stderr
    assert "left out the models in it (part@1, part@2); serve with a folder that has them" in told["with"]
    assert "does not hold the model in use, part@2; serve with a folder" in told["without"]


def test_a_backup_is_made_while_the_station_runs(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models, tmp_path / "models")
    server = Server(tmp_path / "models", tmp_path / "data")
    with Client(server.url) as client:
        client.inspect(png(1))
        assert run("backup", tmp_path / "backup.tar", "--data", tmp_path / "data").exit_code == 0
        client.inspect(png(2))
    assert server.stop() == 0
    assert run("restore", tmp_path / "backup.tar", "--data", tmp_path / "again").exit_code == 0


def test_a_broken_backup_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no archive")
    assert "not a whole backup" in refused("restore", tmp_path / "text.tar", "--data", tmp_path / "a")
    run("backup", tmp_path / "whole.tar", "--data", data)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:6000])
    assert refused("restore", tmp_path / "cut.tar", "--data", tmp_path / "b")
    for name, wrong in (("kind", None), ("seq", 1)):  # rows that the record will not take
        with tarfile.open(tmp_path / "odd.tar", "w") as tar, tarfile.open(tmp_path / "whole.tar") as whole:
            for member in whole:
                lines = whole.extractfile(member)
                text = b"" if lines is None else lines.read()
                if member.name.startswith("records/"):
                    rows = [json.loads(line) | {name: wrong} for line in text.splitlines()]
                    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
                    member.size = len(text)
                tar.addfile(member, io.BytesIO(text))
        assert "not a whole backup" in refused("restore", tmp_path / "odd.tar", "--data", tmp_path / f"odd {name}")
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        with tarfile.open(tmp_path / "whole.tar") as whole:
            for member in whole:
                tar.addfile(member, whole.extractfile(member))
        for name in ("pictures/aa/../../../" + "a" * 32 + ".png", "datasets/../../evil.txt"):
            tar.addfile(tarfile.TarInfo(name))
    refused("restore", tmp_path / "evil.tar", "--data", tmp_path / "c" / "d")
    assert not list(tmp_path.glob("**/evil.txt")) and not list(tmp_path.glob("a" * 32 + "*"))


def test_a_mistake_in_serve_is_one_line(models: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "file").write_text("x")
    (tmp_path / "bad.toml").write_text("[queue]\nsizes = 3\n")
    usual = ["--models", models, "--data", data, "--port", "0"]
    for words in (
        ["--models", tmp_path / "none", "--data", data],
        ["--models", models, "--data", tmp_path / "file" / "x", "--port", "0"],
        [*usual, "--host", "203.0.113.1"],
        [*usual, "--database", "nonsense"],
        [*usual, "--config", tmp_path / "bad.toml"],
        [*usual, "--set", "queue.size=0"],
        [*usual, "--set", "shift.starts=[\"25:00\"]"],
        [*usual, "--certificate", tmp_path / "none.pem"],
    ):  # fmt: skip
        assert refused("serve", *words)
    missing = tmp_path / "none.toml"
    assert f"there is no file {missing}" in refused("serve", *usual, "--config", missing)
    for place in ("host/name", "secret/again@host/name"):
        told = refused("serve", *usual, "--database", f"postgresql://anna:very@secret@{place}")
        assert "as %40, or use PGPASSWORD" in told and "secret" not in told
    told = refused("serve", *usual, "--database", "mysql://anna:secret@host/name")
    assert "mysql:// is not supported; expected sqlite:///FILE or postgresql://" in told and "secret" not in told


def test_settings_are_read_checked_and_all_in_the_docs(tmp_path: Path) -> None:
    (tmp_path / "station.toml").write_text('name = "line 3"\n[shift]\nzone = "Europe/Berlin"\n')
    settings = load_settings(tmp_path / "station.toml", ["queue.size=7", "name=line 4"])
    assert (settings.name, settings.queue.size, settings.shift.zone) == ("line 4", 7, "Europe/Berlin")
    for wrong in ("queue.sizes=1", "shift.zone=Mars/Base", "nonsense", "queue.deadline_s=100", "verdict.doubt=2"):
        with pytest.raises(ConfigError) as raised:
            load_settings(None, [wrong])
        assert "\n" not in str(raised.value)
    with pytest.raises(ConfigError, match="onnx computes no bfloat16; use openvino"):
        load_settings(None, ["workers.runtime=onnx", "workers.precision=bfloat16"])
    page = (Path(__file__).parents[2] / "docs" / "station.md").read_text(encoding="utf-8")
    for section, field in StationSettings.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        for name in [section] if inner is None else [f"{section}.{each}" for each in inner]:
            assert f"`{name}`" in page, name


def test_help_of_the_stations_commands_needs_no_web_framework() -> None:
    program = (
        "import sys; sys.argv = ['flawmap', 'serve', '--help']\n"
        "from flawmap.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([name for name in ('fastapi', 'torch', 'sqlalchemy', 'httpx', 'uvicorn') if name in sys.modules])"
    )
    import sys

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
