"""Downloads a function's code inside its pod: `python -c THIS URL SHA256 FOLDER FILE`. Needs nothing but Python.

It unpacks an archive (zip, tar) into the folder; other content becomes the file. It writes nothing into the folder
before it has verified the digest. The variable FETCH_AUTHORIZATION has the header Authorization, which a server that
the address redirects to does not get.
"""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from pathlib import Path

MAX_BYTES = 512 * 1024 * 1024
TIMEOUT_SECONDS = 60


def main(url: str, sha256: str, folder: str, file: str) -> None:
    target, shown = Path(folder), url.partition("?")[0]  # a query may have a token
    with tempfile.TemporaryDirectory() as scratch:
        downloaded = Path(scratch) / "downloaded"
        try:
            digest = _download(url, downloaded)
        except OSError as error:
            reason = getattr(error, "reason", None) if not hasattr(error, "code") else None
            sys.exit(f"spec.source.url: {shown} cannot be downloaded: {reason or error}")
        if digest != sha256:
            sys.exit(
                f"spec.source.sha256: {shown} has the digest {digest}, not {sha256}; "
                "the file has changed, or the digest is wrong"
            )
        try:
            _unpack(downloaded, target, file)
        except (OSError, ValueError, tarfile.TarError, zipfile.BadZipFile) as error:
            sys.exit(f"spec.source.url: {shown} cannot be unpacked: {error}")


def _download(url: str, path: Path) -> str:
    digest = hashlib.sha256()
    size = 0
    request = urllib.request.Request(url)  # noqa: S310 the spec allows https only
    if authorization := os.environ.get("FETCH_AUTHORIZATION", "").strip():
        request.add_unredirected_header("Authorization", authorization)
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as out:  # noqa: S310 the spec allows https only
        while part := answer.read(1024 * 1024):
            size += len(part)
            if size > MAX_BYTES:
                raise OSError(f"it is larger than {MAX_BYTES // 1024**2} MiB; put code of this size into an image")
            digest.update(part)
            out.write(part)
    return digest.hexdigest()


def _unpack(archive: Path, target: Path, file: str) -> None:
    target.mkdir(parents=True, exist_ok=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            _check_size(sum(member.file_size for member in opened.infolist()))
            opened.extractall(target)  # noqa: S202 it removes "..", drives and leading slashes from names
    elif tarfile.is_tarfile(archive):
        with tarfile.open(archive) as unpacked:
            _check_size(sum(member.size for member in unpacked))
            unpacked.extractall(target, filter="data")  # refuses members that point outside the folder
    else:
        place = target / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(archive, place)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"it has {size} bytes unpacked, more than {MAX_BYTES // 1024**2} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:])
