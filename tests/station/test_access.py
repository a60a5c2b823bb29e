from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from flawmap.errors import StationError
from flawmap.station import access
from flawmap.station.access import LOCAL, Access, Rate, Who, add_token, is_loopback, list_tokens, revoke_token
from flawmap.station.audit import audit
from flawmap.station.record import Record
from flawmap.station.web import identify


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Record]:
    opened = Record(f"sqlite:///{tmp_path / 'record.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FRESH_S", 0.0)


def test_a_token_says_who_it_is_and_a_wrong_or_revoked_one_nobody(record: Record) -> None:
    known = Access(record)
    assert not known.needed
    token = add_token(record, "anna", "operator")
    assert known.needed
    who = known.who(token)
    assert who is not None and (who.name, who.role) == ("anna", "operator")
    for wrong in (
        "",
        "fm",
        "fm-",
        token[:-1],
        token + "x",
        token.replace("fm-", "gm-"),
        "ü" * 50,
        token[:12] + "x" * 43,
    ):
        assert known.who(wrong) is None
    revoke_token(record, "anna")
    assert known.who(token) is None
    assert not known.needed


def test_a_role_may_do_what_those_before_it_may() -> None:
    may = {role: [asked for asked in access.ROLES if Who("x", role).may(asked)] for role in access.ROLES}
    assert may == {
        "camera": ["camera"],
        "operator": ["camera", "operator"],
        "engineer": ["camera", "operator", "engineer"],
    }


def test_the_secret_is_in_no_file(record: Record, tmp_path: Path) -> None:
    secret = add_token(record, "cam", "camera").split("-", 2)[2]
    record.close()
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_tokens_added_and_revoked_are_in_the_chain(record: Record) -> None:
    add_token(record, "cam", "camera")
    revoke_token(record, "cam")
    add_token(record, "cam", "operator")
    assert [(row["name"], row["role"], row["revoked"] is None) for row in list_tokens(record)] == [
        ("cam", "camera", False),
        ("cam", "operator", True),
    ]
    assert (audit(record).whole, audit(record).records) == (True, 3)


@pytest.mark.parametrize(("name", "role"), [("a", "boss"), ("", "camera"), (" ", "camera"), ("a\n", "camera")])
def test_a_token_that_will_not_do_is_refused(record: Record, name: str, role: str) -> None:
    with pytest.raises(StationError):
        add_token(record, name, role)
    assert list_tokens(record) == []


def test_a_name_is_given_once_and_an_unknown_one_not_revoked(record: Record) -> None:
    add_token(record, "anna", "operator")
    with pytest.raises(StationError, match="there is a token anna"):
        add_token(record, "anna", "camera")
    with pytest.raises(StationError, match="no token otto"):
        revoke_token(record, "otto")


def test_a_rate_lets_a_burst_through_and_then_as_many_as_it_says() -> None:
    rate = Rate(2.0, 3)
    assert [rate.take("a", at=0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert rate.take("b", at=0.0) == 0.0
    assert rate.take("a", at=0.5) == 0.0
    assert rate.take("a", at=0.5) == pytest.approx(0.5)
    assert [rate.take("a", at=100.0) for _ in range(4)].count(0.0) == 3


def test_more_at_once_than_a_burst_is_granted_in_the_end_and_paid_back() -> None:
    rate = Rate(10, 5)
    assert rate.take("a", 20, 0.0) == 0.0
    assert rate.take("a", 1, 0.0) == pytest.approx(1.6)
    assert rate.take("a", 1, 1.6) == 0.0


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("localhost.example.com", False), ("", False),
    ],
)  # fmt: skip
def test_loopback_is_told_from_other_addresses(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_without_tokens_only_this_machine_is_let_in_even_after_the_last_was_revoked(record: Record) -> None:
    token = add_token(record, "anna", "engineer")
    station = SimpleNamespace(access=Access(record), failures=Rate(1.0, 5))
    assert identify(station, token, "10.0.0.1").name == "anna"  # type: ignore[arg-type]
    revoke_token(record, "anna")
    station.access = Access(record)
    assert identify(station, "", "127.0.0.1") == LOCAL  # type: ignore[arg-type]
    for address in ("10.0.0.1", ""):
        with pytest.raises(StationError, match="for this machine alone"):
            identify(station, token, address)  # type: ignore[arg-type]
