"""Who may do what: tokens with roles, stored hashed, and how often one may ask.

A token is `fm-ID-SECRET`. The secret has 256 random bits, so one SHA-256 with a salt is as good as a slow hash: nobody
can guess it. The token itself is shown once, when it is made, and kept nowhere.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from flawmap.errors import StationError
from flawmap.station.record import Entry, Record, append_to, now, tokens

ROLES = ("camera", "operator", "engineer")  # each may do what those before it may
FRESH_S = 2.0  # a revoked token is refused after this at the latest
BUCKETS = 4096  # addresses and tokens whose rates are remembered
NAME = re.compile(r"[^\x00-\x1f\x7f]{1,100}")


@dataclass(frozen=True)
class Who:
    """Somebody who asks. token: its id, "" where the station asks for none."""

    name: str
    role: str
    token: str = ""

    def may(self, role: str) -> bool:
        """Whether their role is `role` or above."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = Who("local", "engineer")


def add_token(record: Record, name: str, role: str, by: str = "command line") -> str:
    """Make a token; what is returned is the only copy. Raises StationError for a role or name that will not do."""
    if role not in ROLES:
        raise StationError(f"no role {role}; there are: {', '.join(ROLES)}")
    if not NAME.fullmatch(name) or not name.strip():
        raise StationError("a token's name is 1 to 100 letters, without control characters")
    secret, salt, ident = secrets.token_urlsafe(32), secrets.token_hex(16), secrets.token_hex(4)
    with record.writing() as connection:
        if connection.execute(sa.select(tokens.c.id).where(tokens.c.name == name, tokens.c.revoked.is_(None))).scalar():
            raise StationError(f"there is a token {name}; revoke it first, or choose another name")
        connection.execute(
            tokens.insert().values(
                id=ident, name=name, role=role, salt=salt, hash=_hash(salt, secret), added=now(), revoked=None
            )
        )
        append_to(connection, [Entry("token", {"action": "add", "name": name, "role": role, "id": ident}, who=by)])
    return f"fm-{ident}-{secret}"


def revoke_token(record: Record, name: str, by: str = "command line") -> None:
    """Make a token of no use. Raises StationError when there is none of that name."""
    with record.writing() as connection:
        valid = (tokens.c.name == name) & tokens.c.revoked.is_(None)
        ident = connection.execute(sa.select(tokens.c.id).where(valid)).scalar()
        if ident is None:
            raise StationError(f"there is no token {name}; see: flawmap token list")
        connection.execute(tokens.update().where(valid).values(revoked=now()))
        append_to(connection, [Entry("token", {"action": "revoke", "name": name, "id": ident}, who=by)])


def list_tokens(record: Record) -> list[dict[str, Any]]:
    """All tokens in the order they were added: name, role, added, revoked; nothing secret."""
    with record.reading() as connection:
        chosen = sa.select(tokens.c.name, tokens.c.role, tokens.c.added, tokens.c.revoked).order_by(tokens.c.added)
        return [dict(row) for row in connection.execute(chosen).mappings()]


class Access:
    """Knows the tokens, from the record, at most FRESH_S old. Threads may share it."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._lock = threading.Lock()
        self._known: dict[str, tuple[Who, str, str]] = {}  # by id: who, salt, hash
        self._read_at = -FRESH_S

    def old(self) -> bool:
        """Whether the tokens should be read again before somebody is let in: so none is asked for by who must not wait.

        Half of FRESH_S, so that what is not old yet is not read again within `who`.
        """
        return time.monotonic() - self._read_at >= FRESH_S / 2

    def refresh(self) -> None:
        """Read the tokens. Raises SQLAlchemyError."""
        with self.record.reading(line=True) as connection:
            rows = connection.execute(sa.select(tokens).where(tokens.c.revoked.is_(None))).all()
        known = {row.id: (Who(row.name, row.role, row.id), row.salt, row.hash) for row in rows}
        with self._lock:
            self._known, self._read_at = known, time.monotonic()

    @property
    def needed(self) -> bool:
        """Whether a token is asked for: as soon as there is one, revoked ones not counted."""
        return bool(self._tokens())

    def who(self, token: str) -> Who | None:
        """Whose token it is, None for nobody's."""
        kind, _, rest = token.partition("-")
        ident, _, secret = rest.partition("-")
        found = self._tokens().get(ident) if kind == "fm" else None
        if found is None:
            return None
        who, salt, known = found
        return who if hmac.compare_digest(_hash(salt, secret), known) else None

    def _tokens(self) -> dict[str, tuple[Who, str, str]]:
        if time.monotonic() - self._read_at >= FRESH_S:
            self.refresh()
        return self._known


class Rate:
    """Buckets of tokens: each key may do `burst` at once, and `rate` a second on average."""

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key: left, at

    def take(self, key: str, count: int = 1, at: float | None = None) -> float:
        """Take `count`; 0 when that is granted, else the seconds after which it would be. `at`: the time, monotonic.

        More than a burst at once is granted from a full bucket, and paid back after: it could never be else.
        """
        at = time.monotonic() if at is None else at
        with self._lock:
            left, before = self._buckets.pop(key, (float(self.burst), at))
            left = min(float(self.burst), left + (at - before) * self.rate)
            wanted = min(count, self.burst)
            granted = left >= wanted
            self._buckets[key] = (left - count if granted else left, at)
            while len(self._buckets) > BUCKETS:
                self._buckets.popitem(last=False)
        return 0.0 if granted else (wanted - left) / self.rate


def is_loopback(host: str) -> bool:
    """Whether an address or a name reaches this machine alone."""
    bare = host.strip("[]")
    if bare == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return False


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}{secret}".encode()).hexdigest()
