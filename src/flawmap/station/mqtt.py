"""Results to an MQTT broker, each acknowledged by it (quality of service 1) before its file counts as done."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

from flawmap.errors import StationError

WAIT_S = 30.0  # for the broker, before the watch gives up
TOPIC = "flawmap/results"


class Broker:
    """A connection to `mqtt://[USER:PASSWORD@]HOST[:PORT][/TOPIC]`, or `mqtts://`. Raises StationError."""

    def __init__(self, url: str) -> None:
        try:
            from paho.mqtt import client as paho
            from paho.mqtt.enums import CallbackAPIVersion
        except ImportError as problem:
            raise StationError("MQTT needs a package; pip install 'flawmap[mqtt]'") from problem
        try:
            parts = urlsplit(url)
            port = parts.port or (8883 if parts.scheme == "mqtts" else 1883)
        except ValueError:
            parts, port = urlsplit(""), 0
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise StationError(
                "--mqtt is no address; expected mqtt://HOST/TOPIC, with USER:PASSWORD@ before HOST if needed"
            )
        self.topic = unquote(parts.path.strip("/")) or TOPIC
        if any(sign in self.topic for sign in "#+\x00"):
            raise StationError(f"--mqtt: {self.topic!r} is no topic to publish to; leave out # and +")
        self.place = f"{parts.hostname}:{port}"
        self._connected, self._refused = threading.Event(), ""
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = self._on_connect
        if parts.username:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            self._client.tls_set()
        try:
            self._client.connect(parts.hostname, port)
        except OSError as problem:
            raise StationError(f"the MQTT broker {self.place} cannot be reached: {problem}") from problem
        self._client.loop_start()  # it also connects anew by itself
        if not self._connected.wait(WAIT_S) or self._refused:
            self.close()
            raise StationError(f"the MQTT broker {self.place} refuses: {self._refused or 'no answer'}")

    def give(self, result: dict[str, Any]) -> None:
        """Publish; returns when the broker has it."""
        message = self._client.publish(self.topic, json.dumps(result), qos=1)
        with contextlib.suppress(ValueError, RuntimeError):
            message.wait_for_publish(WAIT_S)
        if not message.is_published():
            raise StationError(f"the MQTT broker {self.place} did not take a result within {WAIT_S:g} seconds")

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self._refused = str(code) if code.is_failure else ""
        self._connected.set()
