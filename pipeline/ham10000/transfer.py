"""Fetch one file over HTTP: resumed after a break, checked by MD5, complete or absent.

``fetch`` writes to ``NAME.part`` beside the target. A broken transfer resumes where it stopped
(``Range``), in this process or the next one. When size and MD5 are right, the part is renamed. A
server that ignores ``Range`` sends the file from its first byte again. urllib3's ``Retry`` says how
often to try and how long to wait; the count restarts after every transfer that brought new bytes.

    with open_session(RETRY) as session:
        fetch(session, url, Path("data/a.zip"), size=10, md5="...", retry=RETRY)
"""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, MaxRetryError, ProtocolError
from urllib3.util import Retry

from pipeline.errors import DataError, told_if_slow, warn
from pipeline.files import sync, writing

TIMEOUT, SLOW = (5.0, 60.0), 5.0
"""Seconds to wait for a connection, and for the next bytes; after which a wait is told."""

WHOLE_TRANSFERS = 3
"""Complete transfers with a wrong MD5 before giving up."""

DISK_FULL = "make room or choose another --out; what has arrived is kept"

RETRY = Retry(
    total=7,
    connect=2,
    backoff_factor=0.5,
    backoff_max=60,
    retry_after_max=60,
    status_forcelist=(408, 425, 429, 500, 502, 503, 504),
    raise_on_status=False,
)
"""Eight attempts in a row, at most a minute apart, three (1 s) where there is no connection;
``Retry-After`` is respected."""


class RefusedError(DataError):
    """A server that cannot be reached, or that answers with something else."""


def open_session(retry: Retry) -> requests.Session:
    """Return a session that repeats failed requests as ``retry`` says."""
    session = requests.Session()
    session.headers["User-Agent"] = "dermpipe"  # Dataverse may refuse that of requests (403)
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def get(session: requests.Session, url: str, **how: Any) -> requests.Response:
    """Send a GET request and return the response; status 416 (range) is the caller's to handle.

    RefusedError: the server cannot be reached, or answers with another error status, a page, or
    nothing yet (202), as firewalls do.
    """
    slow = f"no answer from {url} for {SLOW:.0f} s; still asking (is there a network?)"
    try:
        with told_if_slow(slow, SLOW):
            response = session.get(url, timeout=TIMEOUT, **how)
        if response.status_code != 416:
            response.raise_for_status()
    except requests.RequestException as error:
        raise RefusedError(f"cannot fetch {url}: {_reason(error)}") from error
    page = "html" in response.headers.get("Content-Type", "")
    if response.status_code != 416 and (page or response.status_code not in (200, 206)):
        what = "a web page" if page else "no content"
        raise RefusedError(f"cannot fetch {url}: status {response.status_code} with {what}")
    return response


def fetch(
    session: requests.Session,
    url: str,
    target: Path,
    *,
    size: int | None,
    md5: str,
    retry: Retry,
    repeatable: bool = False,
    progress: Callable[[int], object] = lambda have: None,
) -> str:
    """Fetch ``url`` to ``target``, which appears when it is complete, and return its MD5.

    ``NAME.part`` beside the target holds the bytes that have arrived; ``progress`` is called with
    their number. ``size`` is None where unknown. ``repeatable`` accepts a digest other than ``md5``
    when two transfers agree on it. DataError: the server refuses or keeps failing, the digest stays
    wrong, the disk is full.
    """
    part = target.with_name(f"{target.name}.part")
    left, found = retry, []
    while len(found) < WHOLE_TRANSFERS:
        have = _size(part)
        try:
            _receive(session, url, part, size=size, progress=progress)
        except HTTPError as error:
            left = _wait(retry if _size(part) > have else left, url, part, error)
            continue
        digest = md5_of(part)
        if digest == md5 or (repeatable and digest in found):
            part.replace(target)
            return digest
        found.append(digest)
        part.unlink()
    raise DataError(
        f"{url} was fetched {len(found)} times and its MD5 is {found[-1]}, expected {md5}; a proxy "
        f"may have altered it. Nothing of it was kept"
    )


def md5_of(path: Path) -> str:
    """Return the MD5 of a file, which is what Dataverse publishes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _wait(left: Retry, url: str, part: Path, error: HTTPError) -> Retry:
    """Wait before the next attempt and return the attempts left after it."""
    try:
        left = left.increment("GET", url, error=error)
    except MaxRetryError:
        raise DataError(
            f"{url} broke off {len(left.history) + 1} times in a row ({_reason(error)}); "
            f"{_size(part):,} bytes are kept in {part}: run the same command again to resume"
        ) from error
    warn(f"{url} broke off at {_size(part):,} bytes ({_reason(error)}); going on from there")
    left.sleep()
    return left


def _receive(
    session: requests.Session,
    url: str,
    part: Path,
    *,
    size: int | None,
    progress: Callable[[int], object],
) -> None:
    """Append the missing bytes to ``part`` with one request; HTTPError: some are still missing."""
    have = _size(part)
    progress(have)
    if have == size:
        return
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with get(session, url, headers=headers, stream=True) as response:
        offered = response.headers.get("Content-Range", "")
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise ProtocolError(f"the server has no bytes after {have:,}: starting again")
        if response.status_code == 206 and not offered.startswith(f"bytes {have}-"):
            raise ProtocolError(f"asked for the bytes from {have:,} on, was offered {offered!r}")
        mode = "ab" if response.status_code == 206 else "wb"
        with writing(part, DISK_FULL), part.open(mode) as file:
            while chunk := response.raw.read1(1 << 18):  # iter_content loses a chunk that broke off
                file.write(chunk)
                progress(file.tell())
    sync(part)
    if size is not None and _size(part) < size:
        raise ProtocolError(f"the connection closed after {_size(part):,} of {size:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """Return the message of the error that requests and urllib3 wrapped, shortened."""
    inner = error.args[0] if error.args else error
    return str(getattr(inner, "reason", inner))[:160] or type(error).__name__
