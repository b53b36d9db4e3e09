"""Fetches a function's code inside its pod: `python -c THIS URL SHA256 FOLDER FILE`. Runs alone, on any Python.

An archive (zip, tar) is unpacked into the folder; anything else becomes the file. Nothing is written there before the
content is known to be the one that was meant.
"""

import hashlib
import shutil
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

MOST_BYTES = 512 * 1024 * 1024
TIMEOUT_SECONDS = 60


def main(url: str, sha256: str, folder: str, file: str) -> None:
    target = Path(folder)
    with tempfile.TemporaryDirectory() as scratch:
        downloaded = Path(scratch) / "downloaded"
        try:
            digest = _download(url, downloaded)
        except OSError as error:
            reason = getattr(error, "reason", None) if not hasattr(error, "code") else None
            sys.exit(f"spec.source.url: {url} was not fetched: {reason or error}")
        if digest != sha256:
            sys.exit(
                f"spec.source.sha256: {url} has {digest}, not {sha256}: it changed, or the digest is another file's"
            )
        try:
            _unpack(downloaded, target, file)
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            sys.exit(f"spec.source.url: {url}: cannot be unpacked: {error}")


def _download(url: str, path: Path) -> str:
    digest = hashlib.sha256()
    size = 0
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as out:  # noqa: S310 the spec admits https only
        while part := answer.read(1024 * 1024):
            size += len(part)
            if size > MOST_BYTES:
                raise OSError(f"over {MOST_BYTES // 1024**2} MiB; an image is the way for code this large")
            digest.update(part)
            out.write(part)
    return digest.hexdigest()


def _unpack(archive: Path, target: Path, file: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            _bounded(sum(member.file_size for member in opened.infolist()))
            opened.extractall(target)  # noqa: S202 it leaves "..", drives and leading slashes out of names
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as unpacked:
            _bounded(sum(member.size for member in unpacked))
            unpacked.extractall(target, filter="data")  # refuses what points out of the folder
    else:
        place = target / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(archive, place)


def _bounded(size: int) -> None:
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes unpacked, over {MOST_BYTES // 1024**2} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
