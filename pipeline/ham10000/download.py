"""HAM10000 from the Harvard Dataverse: files found by name, resumed, checked, complete or absent.

File ids and checksums change with the deposit's versions, so its files are listed first and the
wanted ones looked up by name. ``pipeline.ham10000.transfer`` fetches each. Complete files are left
alone: the same command again does nothing, or resumes.

    python -m pipeline.ham10000 download --out data/ham10000 [--test-set]
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm
from urllib3.util import Retry

from pipeline.errors import DataError, warn
from pipeline.files import require_writable, writing
from pipeline.ham10000.flags import DownloadFlags
from pipeline.ham10000.tables import TABLE_ENDINGS
from pipeline.ham10000.transfer import RETRY, RefusedError, fetch, get, md5_of, open_session

DATASET = "doi:10.7910/DVN/DBW86T"
"""Persistent identifier of the deposit."""

TRAINING = ("HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip", "HAM10000_metadata")
"""Files of the dataset; tables without their file name extension, which differs."""

TEST = ("ISIC2018_Task3_Test_Images.zip", "ISIC2018_Task3_Test_GroundTruth")
"""Files of the official ISIC 2018 Task 3 test set, some 0.4 GB."""

BY_HAND = """\
{error}. What has arrived is kept: the same command again resumes. Where a firewall refuses
programs, fetch the files by hand: open https://doi.org/10.7910/DVN/DBW86T in a browser, download
{names}, and put them, not unpacked, into {out}; then build."""
"""What follows the error of a server that refuses."""

LICENCE = """\
HAM10000 is licensed CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): share and
adapt it with attribution, not for commercial purposes. Cite:
  Tschandl, P., Rosendahl, C. & Kittler, H. The HAM10000 dataset, a large collection of
  multi-source dermatoscopic images of common pigmented skin lesions.
  Scientific Data 5, 180161 (2018). https://doi.org/10.1038/sdata.2018.161
The test set: Codella et al., Skin Lesion Analysis Toward Melanoma Detection 2018,
  https://arxiv.org/abs/1902.03368"""
"""Terms of use, printed before the download."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of the listing."""

    name: str
    url: str
    size: int | None
    """Bytes, None where the listing does not say."""
    md5: str
    original: bool
    """Whether it is a table as deposited, not as Dataverse converted it."""


def run(flags: DownloadFlags) -> None:
    """Run the command."""
    print(LICENCE, flush=True)
    files = download(flags.out, base_url=flags.base_url, test_set=flags.test_set, progress=True)
    print(f"complete in {flags.out}: {', '.join(path.name for path in files)}")
    print(f"next: python -m pipeline.shards build --source {flags.out} --out shards/ham10000")


def download(
    out: Path,
    *,
    base_url: str,
    test_set: bool = False,
    retry: Retry = RETRY,
    progress: bool = False,
) -> list[Path]:
    """Fetch the files of the dataset to the folder ``out`` and return their paths.

    A file that is not listed, a server that refuses or keeps failing, a full disk are a DataError.
    """
    require_writable(out, "--out")
    base_url, names = base_url.rstrip("/"), TRAINING + (TEST if test_set else ())
    with open_session(retry) as session, _explained(out, names):
        listing = list_files(session, base_url)
        wanted = [find(listing, name, base_url) for name in names]
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
        missing = [file for file in wanted if not is_complete(out / file.name, file)]
        _require_room(out, missing)
        for file in missing:
            _fetch_file(session, file, out / file.name, retry=retry, progress=progress)
    return [out / file.name for file in wanted]


@contextmanager
def _explained(out: Path, names: tuple[str, ...]) -> Iterator[None]:
    """Add to the error of a server that refuses how to fetch the files by hand."""
    try:
        yield
    except RefusedError as error:
        listed = f"{', '.join(names[:-1])} and {names[-1]}"
        raise DataError(BY_HAND.format(error=error, names=listed, out=out)) from error


def list_files(session: requests.Session, base_url: str) -> list[dict]:
    """Return the ``dataFile`` entries of the deposit's latest published version."""
    url = f"{base_url}/api/datasets/:persistentId/versions/:latest-published/files"
    response = get(session, url, params={"persistentId": DATASET})
    try:
        return [entry["dataFile"] for entry in response.json()["data"]]
    except (ValueError, KeyError, TypeError) as error:
        raise RefusedError(
            f"{url} did not answer with a Dataverse file listing; is {base_url} a Dataverse?"
        ) from error


def find(listing: list[dict], name: str, base_url: str) -> RemoteFile:
    """Return the entry of ``listing`` that is called ``name``, with any extension of a table."""
    table = not name.endswith(".zip")
    names = [name + ending for ending in (TABLE_ENDINGS if table else ("",))]
    entry = next((file for file in listing if file.get("filename") in names), None)
    if entry is None:
        found = ", ".join(sorted(str(file.get("filename")) for file in listing)) or "nothing"
        raise DataError(f"the deposit lists no file {name}; it lists {found}")
    original = "originalFileFormat" in entry
    stored = entry.get("originalFileName", "") if original else entry["filename"]
    ending = PurePosixPath(stored).suffix
    if table:
        name += ending if ending and ending in TABLE_ENDINGS else ".csv"
    url = f"{base_url}/api/access/datafile/{entry['id']}" + ("?format=original" if original else "")
    size = entry.get("originalFileSize" if original else "filesize")
    return RemoteFile(name, url, size, str(entry["md5"]), original)


def is_complete(path: Path, file: RemoteFile) -> bool:
    """Say whether ``path`` is that file, by size and MD5."""
    if not path.is_file() or file.size not in (None, path.stat().st_size):
        return False
    return file.original or md5_of(path) == file.md5  # see _fetch_file for the MD5 of tables


def _require_room(out: Path, files: list[RemoteFile]) -> None:
    parts = [out / f"{file.name}.part" for file in files]
    need = sum(file.size or 0 for file in files)
    need -= sum(part.stat().st_size for part in parts if part.exists())
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(f"{out} has {free:,} bytes free; the download needs {need:,} more")


def _fetch_file(
    session: requests.Session, file: RemoteFile, target: Path, *, retry: Retry, progress: bool
) -> None:
    """Fetch one file; the listed MD5 of a table may be that of its converted form."""
    with tqdm(None, file.name, file.size, unit="B", unit_scale=True, disable=not progress) as bar:
        found = fetch(
            session,
            file.url,
            target,
            size=file.size,
            md5=file.md5,
            retry=retry,
            repeatable=file.original,
            progress=lambda have: bar.update(have - bar.n),
        )
    if found != file.md5:
        warn(
            f"{file.name} has MD5 {found}, the listing says {file.md5}, which can be that of "
            f"another form of the table; build checks its rows"
        )
