"""One file over HTTP, however often the line breaks: resumed, checked, and whole or not there.

``fetch`` writes to ``NAME.part`` beside the target. A broken transfer goes on from where it broke
(``Range``), in this process or in the next; when the size and the MD5 are right, the part is
renamed. A server that ignores ``Range`` makes it start again from the first byte. ``Patience``
says how often a failure is met with another attempt; whatever brings new bytes resets the count.

    with requests.Session() as session:
        fetch(session, url, Path("data/a.zip"), size=10, md5="...", patience=Patience())
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError

from pipeline.errors import DataError

CHUNK = 1 << 18
"""Bytes read at a time."""

TIMEOUT = (20.0, 60.0)
"""Seconds to wait for a connection, and for the next bytes."""

WORTH_ANOTHER_TRY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that may go away by themselves."""

Progress = Callable[[int], None]
"""Called with the number of bytes that arrived; negative when they turned out useless."""


class TransferError(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        """Say why, and how many seconds the server asked us to stay away."""
        super().__init__(why)
        self.wait = wait


class DigestError(DataError):
    """The whole file came several times, and its digest is not the published one."""

    def __init__(self, message: str, found: str) -> None:
        """Keep the digest of the last transfer."""
        super().__init__(message)
        self.found = found


@dataclass(frozen=True)
class Patience:
    """How many attempts in a row may bring nothing, and how long to wait between them."""

    attempts: int = 8
    """Attempts in a row without a new byte."""
    whole: int = 3
    """Whole transfers with a wrong digest."""
    pause: float = 1.0
    """Seconds before the second attempt; doubled each time."""
    longest: float = 60.0
    """Longest pause, seconds."""

    def wait(self, failures: int, asked: float = 0.0) -> None:
        """Sleep after the given number of failures in a row, at least as long as ``asked``."""
        time.sleep(min(max(self.pause * 2 ** (failures - 1), asked), self.longest))


def fetch(
    session: requests.Session,
    url: str,
    target: Path,
    *,
    size: int | None,
    md5: str,
    patience: Patience,
    progress: Progress = lambda count: None,
) -> None:
    """Bring ``url`` to ``target``; the file appears there when it is complete and right.

    Args:
        session: what requests go through.
        url: where the file is.
        target: where it goes; ``NAME.part`` beside it holds what has come so far.
        size: bytes expected, None where unknown.
        md5: digest expected, hexadecimal.
        patience: when to give up.
        progress: told of arriving bytes, those of an earlier run included.

    Raises:
        DigestError: the whole file came several times with another digest.
        DataError: the server refuses, the line stays down, or the disk is full.
    """
    part = target.with_name(target.name + ".part")
    failures, wrong = 0, 0
    have = _size(part)
    progress(have)
    while True:
        try:
            _transfer(session, url, part, size=size, progress=progress)
        except TransferError as error:
            failures = 0 if _size(part) > have else failures
            failures, have = failures + 1, _size(part)
            if failures >= patience.attempts:
                raise DataError(
                    f"{url} failed {failures} times in a row ({error}); {have:,} bytes are kept "
                    f"in {part}: run the same command again to go on from there"
                ) from error
            patience.wait(failures, error.wait)
            continue
        found = digest(part)
        if found == md5:
            part.replace(target)
            return
        wrong += 1
        progress(-_size(part))
        part.unlink()
        have = 0
        if wrong >= patience.whole:
            raise DigestError(
                f"{url} was fetched {wrong} times and its MD5 is {found}, expected {md5}; a proxy "
                f"may be in the way. Nothing of it was kept",
                found,
            )
        patience.wait(wrong)


def digest(path: Path) -> str:
    """Return the MD5 of a file, as Dataverse publishes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _transfer(
    session: requests.Session, url: str, part: Path, *, size: int | None, progress: Progress
) -> None:
    """Add to ``part`` what is missing of it; raise ``TransferError`` when that did not work out."""
    have = _size(part)
    if size is not None and have == size:
        return
    if size is not None and have > size:
        progress(-have)
        part.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # what we have is no beginning of what is there
                progress(-have)
                part.unlink()
                raise TransferError(
                    f"the server has no bytes after the {have:,} kept; starting again"
                )
            start = _start(response, have)
            if start == 0 and have:
                progress(-have)
            _save(response, part, start, progress)
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TransferError(_reason(error)) from error
    if size is not None and _size(part) < size:
        raise TransferError(f"the line closed after {_size(part):,} of {size:,} bytes")


def _start(response: requests.Response, have: int) -> int:
    """Return at which byte the body starts; refuse an answer that is no file."""
    check_status(response)
    if response.status_code != 206:
        return 0
    said = response.headers.get("Content-Range", "")
    if not said.startswith(f"bytes {have}-"):
        raise TransferError(
            f"asked for the bytes from {have:,} on, was offered {said or 'others'!r}"
        )
    return have


def check_status(response: requests.Response) -> None:
    """Raise ``TransferError`` for a status that may go away, ``DataError`` for any other."""
    if response.status_code in WORTH_ANOTHER_TRY:
        after = response.headers.get("Retry-After", "")
        raise TransferError(
            f"status {response.status_code}", float(after) if after.isdigit() else 0.0
        )
    if response.status_code not in (200, 206):
        raise DataError(
            f"{response.url} answers with status {response.status_code} ({response.reason}); "
            f"expected 200. Is the address right, and can you open it in a browser?"
        )


def _save(response: requests.Response, part: Path, start: int, progress: Progress) -> None:
    """Write the body to ``part`` from byte ``start`` on."""
    try:
        with part.open("r+b" if start else "wb") as file:
            file.seek(start)
            while chunk := response.raw.read1(CHUNK):  # iter_content drops a chunk that broke off
                file.write(chunk)
                progress(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    except HTTPError as error:
        raise TransferError(_reason(error)) from error
    except OSError as error:
        raise DataError(
            f"cannot write {part}: {error.strerror or error}; make room or give another --out. "
            f"What has come so far is kept"
        ) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: Exception) -> str:
    """Return the last cause of an error in few words."""
    return str(error.args[0] if error.args else error)[:120]
