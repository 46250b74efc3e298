"""HAM10000 from the Harvard Dataverse: files found by name, resumed, checked, never half there.

The deposit is listed at run time (file ids and checksums change with its versions), the wanted
files are found in the listing by name, and ``pipeline.ham10000.transfer`` brings each. What is
already there and right is left alone, so the same command again does nothing, or goes on.

    python -m pipeline.ham10000 download --out data/ham10000 [--test-set]
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import requests
from tqdm import tqdm

from pipeline.errors import DataError
from pipeline.ham10000.flags import BASE_URL, DownloadFlags
from pipeline.ham10000.transfer import (
    TIMEOUT,
    DigestError,
    Patience,
    TransferError,
    check_status,
    digest,
    fetch,
)

DATASET = "doi:10.7910/DVN/DBW86T"
"""Its persistent identifier."""

TRAINING = ("HAM10000_images_part_1.zip", "HAM10000_images_part_2.zip", "HAM10000_metadata")
"""Files of the dataset itself; a table stands without its ending, which differs."""

TEST = ("ISIC2018_Task3_Test_Images.zip", "ISIC2018_Task3_Test_GroundTruth")
"""Files of the official ISIC 2018 Task 3 test set, some 0.4 GB."""

TABLE_ENDINGS = ("", ".tab", ".csv", ".tsv", ".txt")
"""What a table's name may end in, in a listing and on the disk."""

LICENCE = """\
HAM10000 is licensed CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): share and
adapt it with attribution, not for commercial purposes. Cite:
  Tschandl, P., Rosendahl, C. & Kittler, H. The HAM10000 dataset, a large collection of
  multi-source dermatoscopic images of common pigmented skin lesions.
  Scientific Data 5, 180161 (2018). https://doi.org/10.1038/sdata.2018.161
The test set: Codella et al., Skin Lesion Analysis Toward Melanoma Detection 2018,
  https://arxiv.org/abs/1902.03368"""
"""What a person must know who uses the data."""


@dataclass(frozen=True)
class RemoteFile:
    """One file as the listing has it."""

    number: int
    """Its id, unique within the Dataverse."""
    name: str
    """What it is to be called here."""
    size: int | None
    """Bytes, None where the listing does not say."""
    md5: str
    """Digest, hexadecimal."""
    original: bool = False
    """Whether to ask for the table as it was deposited and not as Dataverse converted it."""

    def url(self, base_url: str) -> str:
        """Return where its bytes are."""
        query = "?format=original" if self.original else ""
        return f"{base_url}/api/access/datafile/{self.number}{query}"


def run(flags: DownloadFlags) -> None:
    """Run the command."""
    print(LICENCE, flush=True)
    files = download(flags.out, base_url=flags.base_url, test_set=flags.test_set, progress=True)
    print(f"complete in {flags.out}: {', '.join(path.name for path in files)}")
    print(f"next: python -m pipeline.shards build --source {flags.out} --out shards/ham10000")


def download(
    out: Path,
    *,
    base_url: str = BASE_URL,
    dataset: str = DATASET,
    test_set: bool = False,
    patience: Patience | None = None,
    progress: bool = False,
) -> list[Path]:
    """Bring the files of the dataset to ``out`` and return their paths.

    Args:
        out: folder, made where there is none.
        base_url: the Dataverse, without a slash at the end.
        dataset: persistent identifier of the deposit.
        test_set: whether to bring the official test set too.
        patience: how to meet failures.
        progress: whether to show a bar on standard error.

    Raises:
        DataError: a file is not in the listing, the server refuses, or it stays out of reach.
    """
    out, patience, base_url = Path(out), patience or Patience(), base_url.rstrip("/")
    with requests.Session() as session:
        listing = list_files(session, base_url, dataset, patience)
        wanted = [find(listing, name) for name in TRAINING + (TEST if test_set else ())]
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {out}: {error.strerror or error}") from error
        missing = [file for file in wanted if not is_there(out, file)]
        _require_room(out, missing)
        for file in missing:
            _bring(session, base_url, out, file, patience=patience, progress=progress)
    return [out / file.name for file in wanted]


def list_files(
    session: requests.Session, base_url: str, dataset: str, patience: Patience
) -> list[dict]:
    """Return the ``dataFile`` entries of the deposit's latest published version."""
    url = f"{base_url}/api/datasets/:persistentId/versions/:latest-published/files"
    for failures in range(1, patience.attempts + 1):
        try:
            answer = session.get(url, params={"persistentId": dataset}, timeout=TIMEOUT)
            check_status(answer)
            return [entry["dataFile"] for entry in answer.json()["data"]]
        except (requests.ConnectionError, requests.Timeout, TransferError) as error:
            if failures == patience.attempts:
                raise DataError(
                    f"cannot list {dataset} at {base_url} after {failures} attempts ({error}); is "
                    f"there a connection? Nothing was changed: run the same command again"
                ) from error
            patience.wait(failures, getattr(error, "wait", 0.0))
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{url} did not answer with a Dataverse file listing; is {base_url} a Dataverse?"
            ) from error
    raise AssertionError("the loop returns or raises")


def find(listing: list[dict], name: str) -> RemoteFile:
    """Return the entry of ``listing`` that is called ``name``; for a table in any of its forms."""
    table = not name.endswith(".zip")
    names = [name + ending for ending in (TABLE_ENDINGS if table else ("",))]
    entry = next((file for file in listing if file.get("filename") in names), None)
    if entry is None:
        found = ", ".join(sorted(str(file.get("filename")) for file in listing)) or "nothing"
        raise DataError(f"the deposit lists no file {name}; it lists {found}")
    converted = "originalFileFormat" in entry
    if converted:
        ending, size = PurePosixPath(entry.get("originalFileName", "")).suffix, "originalFileSize"
    else:
        ending, size = PurePosixPath(entry["filename"]).suffix, "filesize"
    local = name if not table else name + (ending if ending in TABLE_ENDINGS[1:] else ".csv")
    return RemoteFile(int(entry["id"]), local, entry.get(size), str(entry["md5"]), converted)


def is_there(out: Path, file: RemoteFile) -> bool:
    """Say whether ``file`` lies in ``out``, whole and right."""
    path = out / file.name
    if not path.is_file() or file.size not in (None, path.stat().st_size):
        return False
    return file.original or digest(path) == file.md5  # see _bring for the digests of tables


def _require_room(out: Path, files: list[RemoteFile]) -> None:
    parts = [out / f"{file.name}.part" for file in files]
    need = sum(file.size or 0 for file in files)
    need -= sum(part.stat().st_size for part in parts if part.exists())
    free = shutil.disk_usage(out).free
    if need > free:
        raise DataError(f"{out} has {free:,} bytes free; {need:,} are still to come")


def _bring(
    session: requests.Session,
    base_url: str,
    out: Path,
    file: RemoteFile,
    *,
    patience: Patience,
    progress: bool,
) -> None:
    """Fetch one file; a table may have another digest than listed, but the same each time."""
    url, target = file.url(base_url), out / file.name
    bar = tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, disable=not progress)

    def arrived(count: int) -> None:
        bar.update(count)

    def attempt(md5: str) -> None:
        fetch(
            session, url, target, size=file.size, md5=md5, patience=patience, progress=arrived
        )  # fmt: skip

    with bar:
        try:
            attempt(file.md5)
        except DigestError as error:
            if not file.original:
                raise
            attempt(error.found)  # the same bytes once more: the line is not to blame
            print(
                f"note: {file.name} has MD5 {error.found}, the listing says {file.md5}. The digest "
                f"of a table can be that of another form of it; build checks its rows",
                file=sys.stderr,
            )
