"""`flawmap.Client` and `flawmap watch --server` at stations that are not simply there."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from station_helpers import Server, png, wait_until
from typer.testing import CliRunner

from flawmap import cli
from flawmap.errors import StationError
from flawmap.station.client import Client


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that no authority signed, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl (apt-get install openssl)")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-days", "2", "-subj", "/CN=station", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def test_a_stations_own_certificate_is_trusted_when_its_file_is_given(models: Path, tmp_path: Path) -> None:
    certificate, key = certify(tmp_path)
    words = ["--certificate", str(certificate), "--key", str(key)]
    server = Server(models, tmp_path / "data", *words, wait=False)
    assert server.url.startswith("https://")
    with Client(server.url, ca=certificate) as client:
        wait_until(client.ready)
        assert client.inspect(png(1))["verdict"] in ("pass", "reject")
    with Client(server.url) as client, pytest.raises(StationError, match=r"not trusted \(self-signed.* ca= or --ca"):
        client.inspect(png(2))
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "3.png").write_bytes(png(3))
    words = ["watch", str(folder), "--server", server.url, "--once"]
    assert "is not trusted" in CliRunner().invoke(cli.app, words).stderr
    done = CliRunner().invoke(cli.app, [*words, "--ca", str(certificate)])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "1 files inspected")
    assert server.stop() == 0


@pytest.mark.parametrize(("name", "why"), [("none.pem", "No such file"), ("text.pem", "holds no certificate")])
def test_a_file_that_is_no_certificate_is_told_in_one_line(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(StationError, match=why) as raised:
        Client("https://127.0.0.1:1", ca=tmp_path / name)
    assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)
