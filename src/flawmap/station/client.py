"""A station from Python: `flawmap.Client("http://station:8000", token)`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import httpx

from flawmap.data.filekinds import special
from flawmap.errors import StationAwayError, StationError
from flawmap.station.reach import trusting, unreached

if TYPE_CHECKING:
    from flawmap.data.arrays import ImageLike

GIVE_TOKEN = (
    "give one as token=, or to flawmap watch as --token or in FLAWMAP_TOKEN; "
    "an engineer makes one with: flawmap token add"
)
FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 5.0  # before another try, where the station does not say when


class Client:
    """Speaks to a station. A part is a dict, as docs/station-api.md tells it.

    Raises StationError, and of these StationAwayError where no station was reached, which may pass.

    `token`: None where the station asks for none. `timeout`: seconds that an answer is waited for; as long goes
    `inspect` on sending an image that met a full queue, a station that is being started, or no station at all: after
    waits that grow from half a second to five, or when the station says to. An image is recorded once, however often
    it is sent. `retries`: at most so often; 0: never, None: until the timeout. `ca`: a PEM file with the certificate
    that a station's own is trusted by, or is; None: the system's. `say` is told a line when an image begins to wait.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout: float = 90.0, retries: int | None = None,
        ca: str | Path | None = None, say: Callable[[str], object] | None = None,
    ) -> None:  # fmt: skip
        headers = {} if token is None else {"Authorization": f"Bearer {token.strip()}"}
        try:
            address = httpx.URL(url)
        except (httpx.InvalidURL, TypeError):
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise StationError(f"{url!r} is no address; expected one as http://127.0.0.1:8000")
        self._http = httpx.Client(
            base_url=address, headers=headers, timeout=timeout, trust_env=False, verify=trusting(ca)
        )
        self.url, self.timeout, self.retries, self.ca, self.say = url, timeout, retries, ca, say

    def __enter__(self) -> Client:
        """The client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        """Close."""
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def inspect(
        self,
        image: ImageLike,
        *,
        order: str | None = None,
        model: str | None = None,
        label: str | None = None,
        lot: str | None = None,
        camera: str | None = None,
        deadline: float | None = None,
        key: str | None = None,
        test: bool = False,
    ) -> dict[str, Any]:
        """Inspect one image; the part. `key`: by which the station knows it when it comes again.

        A file or its bytes are sent as they are, also those behind a PIL image that was opened and not changed. Another
        one, an array or a tensor, as `Inspector.inspect` takes them with `order`, is sent as a PNG of 8 bits, or of 16
        where it has more. `test`: the part does not count. In the station's test mode the part's `verdict`, `defective`
        and `final` are None. Raises ImageError for what is no image.
        """
        data = _encoded(image, order)
        query = {"model": model, "label": label, "lot": lot, "camera": camera, "deadline": deadline}
        query["test"] = test or None
        headers = {"Content-Type": "application/octet-stream", **self._keyed(key)}
        return self._patiently("POST", "/api/parts", content=data, params=_given(query), headers=headers)

    def inspect_batch(
        self, images: Sequence[ImageLike], *, order: str | None = None, key: str | None = None, **query: Any
    ) -> list[dict[str, Any]]:
        """Inspect several images in one request, in order: parts, or {"error", "status"}.

        `key`: by which the station knows the batch when it comes again.
        """
        if isinstance(images, str | bytes | PathLike):
            raise StationError("inspect_batch takes several images; give a list of them")
        files = [
            ("image", (Path(one).name if isinstance(one, str | PathLike) else "image", _encoded(one, order)))
            for one in images
        ]
        asked = {"files": files, "params": _given(query), "headers": self._keyed(key)}
        found: list[dict[str, Any]] = self._patiently("POST", "/api/parts/batch", **asked)["parts"]
        return found

    def part(self, ident: str) -> dict[str, Any]:
        """A recorded part."""
        return self._ask("GET", f"/api/parts/{ident}")

    def parts(self, **query: Any) -> Iterator[dict[str, Any]]:
        """Recorded parts, newest first, read as they are needed. `since` and `to` are times; the rest as in the API."""
        query = {"from" if name == "since" else name: value for name, value in query.items()}
        while True:
            page = self._ask("GET", "/api/parts", params=_given(query))
            yield from page["parts"]
            if page["next"] is None:
                return
            query["after"] = page["next"]

    def picture(self, ident: str, name: str = "overlay") -> bytes:
        """`original`, `photo`, `map`, `overlay`, `heat` or `thumbnail` of a part."""
        return self._send("GET", f"/api/parts/{ident}/{name}").content

    def decide(self, ident: str, verdict: str | None, note: str = "") -> dict[str, Any]:
        """Say that a part is `pass` or `reject`, or with None take back what was said; the part as it then is."""
        return self._ask("POST", f"/api/parts/{ident}/decisions", json={"verdict": verdict, "note": note})

    def test_mode(self, on: bool, verdicts: bool = False, note: str = "") -> dict[str, Any]:
        """Begin or end the test mode, in which parts do not count. `verdicts`: senders are told them all the same"""
        return self._ask("POST", "/api/test", json={"on": on, "verdicts": verdicts, "note": note})

    def station(self) -> dict[str, Any]:
        """How the station is."""
        return self._ask("GET", "/api/station")

    def ready(self) -> bool:
        """Whether it would inspect a part now; False too where it cannot be reached."""
        try:
            return bool(self._http.get("/readyz").status_code == 200)
        except httpx.HTTPError:
            return False

    def models(self) -> dict[str, Any]:
        """All versions, and which is in use."""
        return self._ask("GET", "/api/models")

    def use(self, ref: str, note: str = "") -> dict[str, Any]:
        """Switch to a version, by its ref or a name for the newest of it; also one just copied to the models folder."""
        return self._ask("POST", f"/api/models/{ref}/use", json={"note": note})

    def roll_back(self, note: str = "") -> dict[str, Any]:
        """Switch to the version used before."""
        return self._ask("POST", "/api/models/rollback", json={"note": note})

    def set_threshold(
        self,
        score: float | None = None,
        overkill: float | None = None,
        note: str = "",
        smallest: float | str | None = None,
        mm_per_pixel: float | None = None,
    ) -> dict[str, Any]:
        """Make and use a version with another threshold, or with another smallest place (`20`, `0.5 mm`), or both."""
        asked = {"score": score, "overkill": overkill, "smallest": smallest, "mm_per_pixel": mm_per_pixel}
        return self._ask("POST", "/api/threshold", json={"note": note, **_given(asked)})

    def report(self, **query: Any) -> dict[str, Any]:
        """A shift or a lot in figures."""
        query = {"from" if name == "since" else name: value for name, value in query.items()}
        return self._ask("GET", "/api/report", params=_given(query))

    def events(self, after: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """(name, data) of what happens, until the connection ends; first what came after the record `after`."""
        timeout = httpx.Timeout(self._http.timeout.connect, read=60.0)
        reading = self._http.stream("GET", "/api/events", params=_given({"after": after}), timeout=timeout)
        with self._errors(), reading as answer:
            if answer.status_code != 200:
                answer.read()
                raise self._problem(answer)
            name = ""
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    yield name, json.loads(line.removeprefix("data: "))

    def _keyed(self, key: str | None) -> dict[str, str]:
        """The header that tells a request sent again; where it may be, one without a key gets one."""
        if key is None and self.retries != 0:
            import uuid

            key = uuid.uuid4().hex
        return {} if key is None else {"Idempotency-Key": key}

    def _patiently(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        ends, wait, tried = time.monotonic() + self.timeout, FIRST_WAIT_S, 0
        while True:
            try:
                return self._ask(method, path, **request)
            except StationError as problem:
                left = ends - time.monotonic()
                passes = isinstance(problem, StationAwayError) or problem.status in (429, 503)
                if not passes or left <= 0 or tried == self.retries:
                    raise
                if not tried and self.say is not None:
                    self.say(f"{problem}; waiting, {self.timeout:g} seconds at most")
                time.sleep(min(problem.retry_after or wait, left))
            tried, wait = tried + 1, min(2 * wait, LONGEST_WAIT_S)

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        try:
            found: dict[str, Any] = self._send(method, path, **request).json()
        except ValueError as problem:
            raise StationError(f"{self.url} answers, but is no flawmap station") from problem
        return found

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        with self._errors():
            answer = self._http.request(method, path, **request)
        if answer.status_code >= 300:
            raise self._problem(answer)
        return answer

    def _errors(self) -> _Errors:
        return _Errors(httpx.URL(self.url), self.ca)

    def _problem(self, answer: httpx.Response) -> StationError:
        """Why the station refused, or that there is none."""
        if answer.has_redirect_location:
            return StationError(f"{self.url} sends to {answer.headers['location']}; give the station's own address")
        if answer.status_code in (404, 405) and not self._is_station():
            path = httpx.URL(self.url).path.rstrip("/")
            without = f"; leave out {path}, unless a proxy has the station there" if path else ""
            return StationError(f"{self.url} answers, but is no flawmap station{without}", answer.status_code)
        code = ""
        try:
            told = answer.json()
            text, code = str(told["error"]), str(told.get("code", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            text = f"the station answered {answer.status_code}"
        if code == "token":
            given = "Authorization" in self._http.headers
            text = f"the station {self.url} {'does not know this token' if given else 'asks for a token'}; {GIVE_TOKEN}"
        try:
            wait = float(answer.headers.get("retry-after", 0))
        except ValueError:
            wait = 0.0
        return StationError(text, answer.status_code, wait, code)

    def _is_station(self) -> bool:
        try:
            return bool(self._http.get("/healthz").json()["alive"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return False


class _Errors:
    """What httpx raises becomes a StationError."""

    def __init__(self, address: httpx.URL, ca: str | Path | None) -> None:
        self.address, self.ca = address, ca

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:  # fmt: skip
        if (told := unreached(problem, self.address, self.ca)) is not None:
            raise told from problem


def _given(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if value is not None}


def _encoded(image: ImageLike, order: str | None) -> bytes:
    """The bytes that are sent of an image: of a file its own, of what is in memory a PNG, nothing lost to 16 bits."""
    if isinstance(image, str | PathLike):
        return _bytes_of(Path(image))
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    from PIL.Image import Image

    from flawmap.data.arrays import pixels_of
    from flawmap.data.images import as_png
    from flawmap.data.pil_images import file_behind

    if isinstance(image, Image) and order != "bgr" and (data := file_behind(image)) is not None:
        return data
    return as_png(pixels_of(image, order))


def _bytes_of(path: Path) -> bytes:
    if (what := special(path)) is not None:
        raise StationError(f"{path} is a {what}, not a file; save the image as a file")
    try:
        return path.read_bytes()
    except OSError as problem:
        raise StationError(f"{path} cannot be read: {problem.strerror}") from problem
