"""Why a station was not reached, told in one line from what httpx raised: nobody there, its scheme, its certificate."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import httpx

from flawmap.errors import StationAwayError, StationError

LOOK_S = 5.0  # for a second look at a station that could not be spoken with
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")  # OpenSSL's words for an answer in plain http
EXPIRED, NOT_YET, OTHER_NAME, OTHER_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_… of OpenSSL


def trusting(ca: str | Path | None, others: bool = False) -> ssl.SSLContext:
    """What certificates are checked by: the file `ca`, with `others` the system's too, which serve where there is none.

    Raises StationError for a file that holds none.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
        if others:
            context.load_default_certs()
        return context
    except ssl.SSLError as problem:
        raise StationError(f"{ca} holds no certificate; expected a file in PEM") from problem
    except OSError as problem:
        raise StationError(f"the certificate {ca} cannot be read: {problem.strerror}") from problem


def unreached(problem: BaseException | None, address: httpx.URL, ca: str | Path | None) -> StationError | None:
    """What httpx raised, as a StationError, StationAwayError where it may pass; None for any other problem."""
    if isinstance(problem, httpx.TimeoutException):
        return StationAwayError(f"the station {address} did not answer in time")
    fault = _tls_fault(problem)
    if isinstance(fault, ssl.SSLCertVerificationError):
        return StationError(_refused(fault, address, ca))
    if fault is not None and fault.reason in NO_TLS:
        other = address.copy_with(scheme="http")
        return StationError(f"the station {address} has no certificate and speaks http; give its address as {other}")
    broken = isinstance(problem, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError)
    if broken and _speaks_tls(address):
        other = address.copy_with(scheme="https")
        return StationError(f"the station {address} speaks https alone; give its address as {other}")
    if isinstance(problem, httpx.TransportError | httpx.InvalidURL):
        return StationAwayError(f"the station {address} cannot be reached ({problem}); is it running?")
    return None


def _tls_fault(problem: BaseException | None) -> ssl.SSLError | None:
    """What the ssl module raised, which httpx wraps."""
    while problem is not None and not isinstance(problem, ssl.SSLError):
        problem = problem.__cause__ or problem.__context__
    return problem


def _refused(fault: ssl.SSLCertVerificationError, address: httpx.URL, ca: str | Path | None) -> str:
    """Why a certificate was refused, and what to do."""
    which = f"the certificate of {address}"
    if fault.verify_code in (OTHER_NAME, OTHER_ADDRESS):
        names = _names(address, ca)
        holds = f"is for {', '.join(names)}, not for {address.host}" if names else f"does not hold {address.host}"
        return f"{which} {holds}; ask by a name that it holds, or give the station one for {address.host}"
    if fault.verify_code == EXPIRED:
        return f"{which} has expired; give the station a new one (and look at this machine's clock)"
    if fault.verify_code == NOT_YET:
        return f"{which} is not valid yet; look at this machine's clock, and the station's"
    by = "" if ca is None else f" by {ca}"
    return (
        f"{which} is not trusted{by} ({fault.verify_message}); "
        "give the file of it, or of the authority that signed it, as ca= or --ca"
    )


def _names(address: httpx.URL, ca: str | Path | None) -> list[str]:
    """The names and addresses that a trusted certificate holds, none where they cannot be known."""
    context = trusting(ca)
    context.check_hostname = False
    found = (_certificate(address, context) or {}).get("subjectAltName", ())
    return [str(value) for _, value in found]


def _speaks_tls(address: httpx.URL) -> bool:
    """Whether http was asked of a station that has a certificate, any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return address.scheme == "http" and _certificate(address, context) is not None


def _certificate(address: httpx.URL, context: ssl.SSLContext) -> dict[str, Any] | None:
    """What a station shows, {} where it was not checked; None where it speaks no TLS or is not there."""
    place = (address.host, address.port or (443 if address.scheme == "https" else 80))
    try:
        with socket.create_connection(place, LOOK_S) as line:
            return shown(line, context, address.host)
    except OSError:
        return None


def shown(line: socket.socket, context: ssl.SSLContext, host: str) -> dict[str, Any] | None:
    """The certificate that comes over a connection. Raises OSError where none does.

    Without an SSLSocket, which Python leaves open where the other side goes away meanwhile.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    safe = context.wrap_bio(incoming, outgoing, server_hostname=host)
    while True:
        try:
            safe.do_handshake()
            return safe.getpeercert()
        except ssl.SSLWantReadError:
            line.sendall(outgoing.read())
            data = line.recv(1 << 14)
            if not data:
                raise ConnectionError("closed within the handshake") from None
            incoming.write(data)
