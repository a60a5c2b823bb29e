from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from station_helpers import Server, certify, free_port, png, wait_until

import flawmap
from flawmap.errors import ImageError, StationError
from flawmap.station.client import Client
from flawmap.station.seen import Arrived, Seen, Table
from flawmap.station.watch import STATE, Watch, by_bundle, by_server, stopped_by_signals

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ['PATH']}:/usr/sbin")


class Collect:
    def __init__(self) -> None:
        self.results: list[dict[str, Any]] = []

    def give(self, result: dict[str, Any]) -> None:
        self.results.append(result)

    def close(self) -> None:
        pass


def by_size(arrived: Arrived, data: bytes) -> dict[str, Any]:
    """Stands for a model where the model does not matter."""
    if data == b"":
        raise ImageError(f"{arrived.name}: the file is empty")
    return {"verdict": "pass", "score": len(data) / 1e9, "threshold": 0.5, "model": "size", "regions": []}


def watch(folder: Path, inspect: Any = by_size, **options: Any) -> tuple[Watch, Collect]:
    collect = Collect()
    options = {"say": lambda line: None, "settle_s": 0.02, **options}
    return Watch(folder, inspect, [collect, *options.pop("sinks", [])], **options), collect


def names(collect: Collect) -> list[str]:
    return [result["file"] for result in collect.results]


def write(folder: Path, name: str, number: int = 1, at: int | None = None) -> Path:
    file = folder / name
    file.write_bytes(png(number))
    if at is not None:
        os.utime(file, ns=(at, at))
    return file


def test_each_file_gets_the_verdict_of_the_inspector(models: Path, tmp_path: Path) -> None:
    inspector = flawmap.load(models / "part.bundle", "cpu", 1)
    for number in range(4):
        write(tmp_path, f"{number}.png", number)
    watching, collect = watch(tmp_path, by_bundle(models / "part.bundle", "torch", "cpu", 0.0, print))
    assert watching.run(once=True) == 4
    for number, result in enumerate(sorted(collect.results, key=lambda result: result["file"])):
        expected = inspector.inspect(tmp_path / f"{number}.png")
        assert result["score"] == pytest.approx(expected.score, abs=1e-6)
        assert result["verdict"] == ("reject" if expected.defective else "pass")
    watching.close()


def test_a_burst_of_a_thousand_is_worked_off_in_the_order_of_time_then_name(tmp_path: Path) -> None:
    data = png(101, 32, 32)
    for number in range(1000):
        file = tmp_path / f"{(number * 617) % 1000:04d}.png"
        file.write_bytes(data)
        time = 10**18 + (number * 617) % 1000 // 10 * 10**9  # ten of each time
        os.utime(file, ns=(time, time))
    watching, collect = watch(tmp_path)
    assert watching.run(once=True) == 1000
    assert names(collect) == [f"{number:04d}.png" for number in range(1000)]
    watching.close()


def test_a_half_written_file_is_waited_for(tmp_path: Path) -> None:
    watching, collect = watch(tmp_path)
    thread = threading.Thread(target=watching.run)
    data = png(1)
    half = tmp_path / "half.png"
    half.write_bytes(data[: len(data) // 2])
    write(tmp_path, "whole.png", 2)
    thread.start()
    wait_until(lambda: names(collect) == ["whole.png"])
    write(tmp_path, "later.png", 3)
    wait_until(lambda: names(collect) == ["whole.png", "later.png"])
    with half.open("ab") as file:
        file.write(data[len(data) // 2 :])
    wait_until(lambda: names(collect)[2:] == ["half.png"])
    watching.stopping.set()
    thread.join()
    watching.close()


def test_a_file_that_stays_damaged_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "damaged.png").write_bytes(png(1)[:50])
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("no image")

    def inspect(arrived: Arrived, data: bytes) -> dict[str, Any]:
        raise ImageError(f"{arrived.name}: not an image")

    watching, collect = watch(tmp_path, inspect, damaged_s=0.1, out=tmp_path, move=True)
    assert watching.run(once=True) == 2
    assert [result["verdict"] for result in collect.results] == [None, None]
    assert collect.results[0]["error"] == "not an image", "the file's name stands beside it"
    assert sorted(path.name for path in (tmp_path / "failed").iterdir()) == ["damaged.png", "empty.png"]
    watching.close()


def test_a_file_is_done_once_and_a_new_one_of_its_name_again(tmp_path: Path) -> None:
    write(tmp_path, "part.png", 1, at=10**18)
    for expected in (1, 0):
        watching, _ = watch(tmp_path)
        assert watching.run(once=True) == expected
        watching.close()
    write(tmp_path, "part.png", 2, at=2 * 10**18)
    watching, _ = watch(tmp_path)
    assert watching.run(once=True) == 1
    watching.close()


def test_what_was_sorted_within_the_folder_is_not_inspected_with_another_place_for_the_next(tmp_path: Path) -> None:
    write(tmp_path, "part.png")
    watching, _ = watch(tmp_path, out=tmp_path, move=True, state=tmp_path / "first.sqlite")
    assert watching.run(once=True) == 1
    watching.close()
    assert (tmp_path / "pass" / "part.png").is_file()
    for out in (None, tmp_path / "sorted"):
        watching, collect = watch(tmp_path, out=out, state=tmp_path / f"{out is None}.sqlite")
        assert watching.run(once=True) == 0 and collect.results == []
        watching.close()


def test_files_are_moved_or_copied_to_the_folder_of_their_verdict(tmp_path: Path) -> None:
    def inspect(arrived: Arrived, data: bytes) -> dict[str, Any]:
        return {"verdict": arrived.path.stem.partition("-")[0], "score": 0.5, "threshold": 0.5}

    for move in (True, False):
        folder = tmp_path / str(move)
        (folder / "camera 2").mkdir(parents=True)
        for name in ("pass-1.png", "reject-1.png", "doubt-1.png", "camera 2/pass-1.png"):
            write(folder, name)
        for _ in range(2):  # nothing is done again, whatever lies in the folders of verdicts
            watching, _ = watch(folder, inspect, out=folder, move=move)
            watching.run(once=True)
            watching.close()
        sorted_ = sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*.png") if path.parts[-2:-1] != ("True",)
        )
        moved = ["doubt/doubt-1.png", "pass/camera 2/pass-1.png", "pass/pass-1.png", "reject/reject-1.png"]
        stay = ["camera 2/pass-1.png", "doubt-1.png", "pass-1.png", "reject-1.png"]
        assert sorted_ == sorted(moved if move else moved + stay)
        write(folder, "pass-1.png", 9)  # nothing is replaced
        watching, _ = watch(folder, inspect, out=folder, move=move)
        watching.run(once=True)
        watching.close()
        assert len(list((folder / "pass").glob("pass-1*.png"))) == 2


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as table:
        return list(csv.DictReader(table))


@pytest.mark.parametrize("at", ["inspect", "give", "sort", "note"])
def test_a_kill_at_any_step_leaves_each_file_done_once(tmp_path: Path, at: str) -> None:
    """The table and the folders, after a stop at every step and another start."""

    class Killed(Exception):
        pass

    def dies(*args: Any, **kwargs: Any) -> Any:
        raise Killed

    folder, table = tmp_path / "in", tmp_path / "results.csv"
    folder.mkdir()
    for number in range(3):
        write(folder, f"{number}.png", number, at=10**18 + number)
    watching, _ = watch(folder, sinks=[Table(table)], out=tmp_path / "out", move=False)
    if at == "inspect":
        watching.inspect = dies
    elif at == "give":
        give = watching.sinks[1].give
        watching.sinks[1].give = lambda result: (give(result), dies())  # type: ignore[method-assign,func-returns-value]
    elif at == "sort":
        sort = watching._sort
        watching._sort = lambda *given: (sort(*given), dies())  # type: ignore[method-assign,func-returns-value,assignment]
    else:
        note = watching.seen.note
        watching.seen.note = lambda *given: (note(*given), dies() if given[1] == "found" else None)  # type: ignore[method-assign,func-returns-value]
    with pytest.raises(Killed):
        watching.run(once=True)
    watching.close()
    watching, _ = watch(folder, sinks=[Table(table)], out=tmp_path / "out", move=False)
    assert watching.run(once=True) == 3
    watching.close()
    assert [row["file"] for row in rows(table)] == ["0.png", "1.png", "2.png"]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3


def test_a_killed_watch_command_does_each_file_once_and_in_order(models: Path, tmp_path: Path) -> None:
    folder, table = tmp_path / "in", tmp_path / "results.csv"
    folder.mkdir()
    total = 60
    for number in range(total):
        write(folder, f"{number:03d}.png", number, at=10**18 + number)
    words = [sys.executable, "-m", "flawmap", "watch", str(folder), "--model", str(models / "part.bundle"), "--once"]
    words += ["--csv", str(table), "--device", "cpu", "--move", "--out", str(tmp_path / "out"), "--doubt", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for kill_at in (10, 30):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env=environment)
        wait_until(lambda at=kill_at: table.exists() and len(rows(table)) >= at)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert subprocess.run(words, stdout=subprocess.DEVNULL, env=environment).returncode == 0
    assert [row["file"] for row in rows(table)] == [f"{number:03d}.png" for number in range(total)]
    assert len(list((tmp_path / "out").rglob("*.png"))) == total
    assert list(folder.glob("*.png")) == []


def test_a_line_that_a_loss_of_power_cut_is_written_again(tmp_path: Path) -> None:
    table = Table(tmp_path / "results.csv")
    result = {"file": "a, b.png", "key": "k1", "score": 0.1, "regions": [[1, 2, 3, 4]]}
    table.give(result)
    table.give(result)
    table.give({"file": "c.png", "key": "k2"})
    table.close()
    text = (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").write_text(text[:-3])
    table = Table(tmp_path / "results.csv")
    for key in ("k1", "k2"):
        table.give(result | {"key": key})
    table.close()
    assert [row["key"] for row in rows(tmp_path / "results.csv")] == ["k1", "k2"]
    assert (rows(tmp_path / "results.csv")[0]["file"], rows(tmp_path / "results.csv")[0]["regions"]) == (
        "a, b.png",
        "1",
    )


def test_a_table_that_an_editor_left_without_its_last_line_break_keeps_its_last_line(tmp_path: Path) -> None:
    file, keys = tmp_path / "results.csv", ["a" * 64, "b" * 64]
    table = Table(file)
    table.close()
    file.write_text(file.read_text().rstrip("\n"))  # the heading alone
    for key in keys:
        table = Table(file)
        table.give({"file": "c.png", "key": key})
        table.close()
        file.write_text(file.read_text().rstrip("\n"))
    assert [row["key"] for row in rows(file)] == keys


def test_a_table_with_bytes_that_are_no_text_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "results.csv"
    table = Table(file)
    table.give({"file": "c.png", "key": "k1"})
    table.close()
    file.write_bytes(file.read_bytes().replace(b"k1", b"\x89\xff"))
    table = Table(file)
    table.give({"file": "c.png", "key": "k2"})
    table.close()
    assert b"k2" in file.read_bytes() and b"\x89\xff" in file.read_bytes()


def test_two_watches_do_not_share_a_state(tmp_path: Path) -> None:
    first = Seen(tmp_path / "state.sqlite")
    with pytest.raises(StationError, match="another watch"):
        Seen(tmp_path / "state.sqlite")
    first.close()
    Seen(tmp_path / "state.sqlite").close()


def test_mistakes_are_told_in_one_line(models: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flawmap import cli

    (tmp_path / "other.csv").write_text("a,b\n")
    (tmp_path / "broken").write_bytes(b"no database, but long enough to be looked at" * 50)
    bundle = ["--model", str(models / "part.bundle")]
    for words in (
        [str(tmp_path)],
        [str(tmp_path / "none"), *bundle],
        [str(tmp_path), *bundle, "--server", "http://127.0.0.1:1"],
        [str(tmp_path), *bundle, "--move", "--copy"],
        [str(tmp_path), *bundle, "--out", "x"],
        [str(tmp_path), *bundle, "--ca", "cert.pem"],
        [str(tmp_path), *bundle, "--csv", str(tmp_path / "other.csv")],
        [str(tmp_path), *bundle, "--mqtt", "http://x"],
        [str(tmp_path), *bundle, "--mqtt", "mqtt://127.0.0.1:1/x"],
        [str(tmp_path), *bundle, "--mqtt", "mqtt://127.0.0.1/a/#"],
        [str(tmp_path), *bundle, "--state", str(tmp_path / "broken")],
        [str(tmp_path), "--model", str(tmp_path)],
        [str(tmp_path), "--server", "nonsense"],
    ):
        result = CliRunner().invoke(cli.app, ["watch", *words, "--once"])
        assert result.exit_code == 2, (words, result.output, result.exception)
        assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.parametrize(
    "words", [["--server", "http://127.0.0.1:1"], ["--model", "x", "--mqtt", "mqtt://127.0.0.1:1/x"]]
)
def test_a_certificate_is_refused_where_nothing_is_encrypted(words: list[str], tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flawmap import cli

    result = CliRunner().invoke(cli.app, ["watch", str(tmp_path), *words, "--ca", "cert.pem", "--once"])
    assert result.exit_code == 2
    assert "--ca is for --server with https:// and for --mqtt with mqtts://" in result.stderr


def test_watch_once_ends_with_1_when_files_failed_in_that_run(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from flawmap import cli

    write(tmp_path, "good.png", 1)
    (tmp_path / "damaged.png").write_bytes(png(2)[:50])
    monkeypatch.setitem(Watch.__init__.__kwdefaults__, "damaged_s", 0.1)
    words = ["watch", str(tmp_path), "--model", str(models / "part.bundle"), "--device", "cpu", "--once"]
    runs = [CliRunner().invoke(cli.app, words) for _ in range(2)]
    told = [(run.exit_code, run.stdout.splitlines()[-1]) for run in runs]
    assert told == [(1, "2 files inspected, 1 of them failed"), (0, "0 files inspected")]


def test_the_service_records_each_file_once(models: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    server = Server(models, tmp_path / "data")
    for number in range(5):
        write(folder, f"part {number} ü.png", number, at=10**18 + number)
    (folder / "large.bmp").write_bytes(b"BM" + b"x" * 100)
    (folder / "short.png").write_bytes(png(9)[:-20])
    sender = Client(server.url)
    watching, collect = watch(folder, by_server(sender, "lot 1"), damaged_s=0.1)
    found = watching.seen.note
    counted = 0

    def dies_once(arrived: Arrived, state: str, result: Any = None) -> None:
        nonlocal counted
        counted += state == "found"
        if counted == 3:
            raise KeyboardInterrupt  # the service has recorded it, the watch does not know
        found(arrived, state, result)

    watching.seen.note = dies_once  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        watching.run(once=True)
    watching.close()
    watching, more = watch(folder, by_server(sender, "lot 1"), damaged_s=0.1)
    watching.run(once=True)
    watching.close()
    sender.close()
    with Client(server.url) as client:
        parts = list(client.parts(lot="lot 1", order="oldest"))
    assert [part["label"] for part in parts] == [f"part {number} ü.png" for number in range(5)]
    errors = {result["file"]: result["error"] for result in more.results if not result["id"]}
    assert errors["large.bmp"].startswith("the image is damaged"), "the file's name stands beside it"
    assert errors["short.png"].startswith("the image is truncated")
    told = [result for result in collect.results + more.results if result["id"]]
    assert [result["id"] for result in told] == [part["id"] for part in parts]
    assert server.stop() == 0


def test_a_stop_ends_a_watch_that_waits_for_its_station(models: Path, tmp_path: Path) -> None:
    folder, state = tmp_path / "in", tmp_path / "in" / STATE
    folder.mkdir()
    write(folder, "part.png")
    words = [sys.executable, "-m", "flawmap", "watch", str(folder), "--server"]

    def begun() -> bool:
        if not state.exists():
            return False
        connection = sqlite3.connect(state)
        try:
            return connection.execute("SELECT state FROM seen").fetchall() == [("begun",)]
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes connections and never answers
        for number, port in ((signal.SIGTERM, free_port()), (signal.SIGINT, silent.getsockname()[1])):
            watching = subprocess.Popen([*words, f"http://127.0.0.1:{port}"], stdout=subprocess.PIPE)
            wait_until(begun)
            watching.send_signal(number)
            told, _ = watching.communicate(timeout=60)  # it would wait for 150 seconds
            assert (watching.returncode, told) == (0, b"0 files inspected\n")
            state.unlink()
    server = Server(models, tmp_path / "data")
    with Client(server.url) as client:
        ask = by_server(client, None)

        def stopped(arrived: Arrived, data: bytes) -> dict[str, Any]:
            found = ask(arrived, data)
            signal.raise_signal(signal.SIGTERM)  # the station has recorded it, the watch does not know
            return found

        for inspect, expected in ((stopped, 0), (ask, 1)):
            watching_, collect = watch(folder, inspect)
            with stopped_by_signals(watching_):
                assert watching_.run(once=True) == expected
            watching_.close()
        assert [result["id"] for result in collect.results] == [part["id"] for part in client.parts()]
    assert server.stop() == 0


class Mosquitto:
    """A real broker on loopback."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path] | None = None) -> None:
        self.config, self.port = folder / "mosquitto.conf", free_port()
        tls = "" if certificate is None else "certfile {}\nkeyfile {}\n".format(*certificate)
        self.config.write_text(f"listener {self.port} 127.0.0.1\n{tls}allow_anonymous true\nuser root\n")
        scheme = "mqtt" if certificate is None else "mqtts"
        self.url, self.process = f"{scheme}://127.0.0.1:{self.port}/line/3", None

    def start(self) -> None:
        words = [str(MOSQUITTO), "-c", str(self.config)]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def answers() -> bool:
            with socket.socket() as tried:
                return tried.connect_ex(("127.0.0.1", self.port)) == 0

        wait_until(answers)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()


@contextlib.contextmanager
def running(folder: Path, certificate: tuple[Path, Path] | None = None) -> Iterator[Mosquitto]:
    """One that runs."""
    if MOSQUITTO is None:
        pytest.skip("no mosquitto is installed (apt-get install mosquitto)")
    pytest.importorskip("paho.mqtt")
    started = Mosquitto(folder, certificate)
    try:
        started.start()
        yield started
    finally:
        started.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """One that runs."""
    with running(tmp_path) as started:
        yield started


@contextlib.contextmanager
def subscribed(broker: Mosquitto) -> Iterator[list[dict[str, Any]]]:
    """What the broker hands on, as it comes."""
    from paho.mqtt import client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    got: list[dict[str, Any]] = []
    listening = threading.Event()
    reader = paho.Client(CallbackAPIVersion.VERSION2)
    reader.on_message = lambda client, data, message: got.append(json.loads(message.payload))
    reader.on_subscribe = lambda *given: listening.set()
    reader.connect("127.0.0.1", broker.port)
    reader.subscribe("line/3", 1)
    reader.loop_start()
    assert listening.wait(30)
    yield got
    reader.disconnect()
    reader.loop_stop()


def test_a_brokers_own_certificate_is_trusted_when_its_file_is_given(models: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flawmap import cli

    pair = certify(tmp_path)
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "1.png").write_bytes(png(1))
    with running(tmp_path, pair) as broker:
        words = ["watch", str(folder), "--model", str(models / "part.bundle"), "--mqtt", broker.url, "--once"]
        refused = CliRunner().invoke(cli.app, words)
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
        assert "not trusted (self-signed certificate); give the file of it" in refused.stderr
        assert refused.stderr.strip().endswith("as --ca")
        done = CliRunner().invoke(cli.app, [*words, "--ca", str(pair[0])])
        assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 files inspected"), done.stderr


def test_results_reach_an_mqtt_broker(broker: Mosquitto, tmp_path: Path) -> None:
    from flawmap.station.mqtt import Broker

    for number in range(5):
        write(tmp_path, f"{number}.png", number, at=10**18 + number)
    sink = Broker(broker.url)
    watching, collect = watch(tmp_path, sinks=[sink])
    with subscribed(broker) as got:
        assert watching.run(once=True) == 5
        wait_until(lambda: len(got) == 5)
        assert got == collect.results
    watching.close()
    sink.close()


def test_a_broker_that_is_away_is_waited_for_and_a_stop_ends_that(broker: Mosquitto, tmp_path: Path) -> None:
    from flawmap.station.mqtt import Broker

    file = write(tmp_path, "part.png")
    sink = Broker(broker.url)
    broker.stop()
    watching, collect = watch(tmp_path, sinks=[sink])
    stop = threading.Thread(
        target=lambda: (wait_until(lambda: collect.results), os.kill(os.getpid(), signal.SIGTERM))  # type: ignore[func-returns-value]
    )
    stop.start()
    with stopped_by_signals(watching):
        assert watching.run(once=True) == 0
        stop.join()
    arrived = Arrived(file, file.name, file.stat().st_size, file.stat().st_mtime_ns)
    assert watching.seen.state(arrived.key) == "found"
    watching.close()
    sink.close()
    broker.start()
    sink = Broker(broker.url)
    broker.stop()
    watching, collect = watch(tmp_path, sinks=[sink])
    done: list[int] = []
    thread = threading.Thread(target=lambda: done.append(watching.run(once=True)))
    thread.start()
    wait_until(lambda: collect.results)
    broker.start()
    thread.join()
    assert done == [1] and watching.seen.state(arrived.key) == "done"
    watching.close()
    sink.close()


def test_a_broker_that_is_not_there_is_told_with_what_to_check() -> None:
    pytest.importorskip("paho.mqtt")
    from flawmap.station.mqtt import Broker

    with pytest.raises(StationError, match=r"Connection refused\); check host and port, and that the broker runs"):
        Broker(f"mqtt://127.0.0.1:{free_port()}/x")


def test_files_of_any_suffix_are_inspected_and_what_is_no_image_is_told_once(tmp_path: Path) -> None:
    for name in ("a.png", "b.JPE", "none", ".hidden.png"):
        write(tmp_path, name)
    (tmp_path / ".cam2").mkdir()
    write(tmp_path / ".cam2", "c.png")
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("words")
    (tmp_path / "x.pdf").write_bytes(b"%PDF-1.4")
    told: list[str] = []
    watched, collect = watch(tmp_path, say=told.append)
    assert watched.run(once=True) == 3
    assert sorted(names(collect)) == ["a.png", "b.JPE", "none"]
    assert watched.passed_over == 6
    assert sorted(path.name for path in watched.hidden_images) == [".hidden.png", "c.png"]
    passed = {line.removeprefix("passed over").strip() for line in told if line.startswith("passed over")}
    assert len(passed) == 4
    assert {".hidden.png (hidden PNG image)", ".cam2/c.png (hidden PNG image)", "x.pdf (PDF)"} < passed
    watched.run(once=True)
    assert watched.passed_over == 6


def test_a_hidden_file_that_becomes_an_image_is_not_told(tmp_path: Path) -> None:
    told: list[str] = []
    watched, collect = watch(tmp_path, say=told.append)
    write(tmp_path, ".a.png.part")
    for _ in range(3):
        assert list(watched._arrived()) == []
    (tmp_path / ".a.png.part").rename(tmp_path / "a.png")
    assert watched.run(once=True) == 1
    assert names(collect) == ["a.png"] and watched.passed_over == 0
