from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from flawmap.deploy.signals import _Stack, kept_signal_stack

SIGNALLED = """
import gc, os, signal, sys
from pathlib import Path
from flawmap.deploy.artefact import open_session

stopped = []
signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
file = Path(sys.argv[1])
first, second = open_session(file), open_session(file)
del first  # in the order they came
gc.collect()
del second
gc.collect()
os.kill(os.getpid(), signal.SIGTERM)
assert stopped == [signal.SIGTERM]
"""


def test_a_signal_after_two_openvino_sessions_were_closed_does_not_kill(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    given = openvino.opset13.parameter([1, 3], openvino.Type.f32, "given")
    openvino.save_model(openvino.Model([openvino.opset13.relu(given)], [given], "tiny"), tmp_path / "tiny.xml")
    done = subprocess.run([sys.executable, "-c", SIGNALLED, tmp_path / "tiny.xml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the C library is Linux's")
def test_the_signal_stack_is_put_back() -> None:
    sigaltstack, before, after = ctypes.CDLL(None).sigaltstack, _Stack(), _Stack()
    sigaltstack(None, ctypes.byref(before))
    own = ctypes.create_string_buffer(1 << 16)
    with kept_signal_stack():
        other = _Stack(ctypes.addressof(own), 0, len(own))
        assert sigaltstack(ctypes.byref(other), None) == 0
        sigaltstack(None, ctypes.byref(after))
        assert after.place == ctypes.addressof(own)
    sigaltstack(None, ctypes.byref(after))
    assert (after.place, after.flags, after.size) == (before.place, before.flags, before.size)
