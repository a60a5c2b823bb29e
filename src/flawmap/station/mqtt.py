"""Results to an MQTT broker, each acknowledged by it (quality of service 1) before its file counts as done."""

from __future__ import annotations

import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flawmap.errors import StationError, first_line
from flawmap.station.reach import EXPIRED, NOT_YET, OTHER_ADDRESS, OTHER_NAME, shown, trusting

WAIT_S = 30.0  # for the broker, before the watch gives up
AGAIN_S = 5  # at most, between two tries to connect anew
TOPIC = "flawmap/results"


class Broker:
    """A connection to `mqtt://[USER:PASSWORD@]HOST[:PORT][/TOPIC]`, or `mqtts://`. Raises StationError.

    `ca`: a PEM file with the certificate that the broker's is trusted by, or is, beside the system's.
    """

    def __init__(self, url: str, ca: Path | None = None) -> None:
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
        self._changed, self._taken = threading.Condition(), set[int]()
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect, self._client.on_publish = self._on_connect, self._on_publish
        self._client.reconnect_delay_set(1, AGAIN_S)
        if parts.username:
            self._client.username_pw_set(unquote(parts.username), unquote(parts.password or ""))
        if parts.scheme == "mqtts":
            context = trusting(ca, others=True)
            self._client.tls_set_context(context)
        try:
            if parts.scheme == "mqtts":  # tried first: paho would leave the socket of one that is not trusted open
                with socket.create_connection((parts.hostname, port), WAIT_S) as line:
                    shown(line, context, parts.hostname)
            self._client.connect(parts.hostname, port)
        except ssl.SSLCertVerificationError as problem:
            other = problem.verify_code in (EXPIRED, NOT_YET, OTHER_NAME, OTHER_ADDRESS)
            raise StationError(
                f"the certificate of the MQTT broker {self.place} is not trusted ({problem.verify_message}); "
                + (
                    "give the broker another, and look at this machine's clock, or at the address"
                    if other
                    else "give the file of it, or of the authority that signed it, as --ca"
                )
            ) from problem
        except OSError as problem:
            raise StationError(
                f"the MQTT broker {self.place} cannot be reached ({first_line(problem)}); "
                "check host and port, and that the broker runs, then start the watch again"
            ) from problem
        self._client.loop_start()  # it also connects anew by itself
        if not self._connected.wait(WAIT_S) or self._refused:
            self.close()
            raise StationError(
                f"the MQTT broker {self.place} refuses ({self._refused}); check USER:PASSWORD in --mqtt"
                if self._refused
                else f"the MQTT broker {self.place} does not answer; check that it is one, and mqtt:// or mqtts://"
            )

    def give(self, result: dict[str, Any]) -> None:
        """Publish; returns when the broker has it."""
        number = self._client.publish(self.topic, json.dumps(result), qos=1).mid  # queued where the broker is away
        with self._changed:
            taken = self._changed.wait_for(lambda: number in self._taken, WAIT_S)
            self._taken.discard(number)
        if not taken:
            raise StationError(
                f"the MQTT broker {self.place} did not take a result within {WAIT_S:g} seconds, and the watch ends; "
                "check that the broker runs, and start the watch again: it begins with this result"
            )

    def close(self) -> None:
        """Say goodbye."""
        self._client.disconnect()
        self._client.loop_stop()

    def _on_connect(self, client: Any, data: Any, flags: Any, code: Any, properties: Any) -> None:
        self._refused = str(code) if code.is_failure else ""
        self._connected.set()

    def _on_publish(self, client: Any, data: Any, number: int, code: Any, properties: Any) -> None:
        with self._changed:
            self._taken.add(number)
            self._changed.notify_all()
