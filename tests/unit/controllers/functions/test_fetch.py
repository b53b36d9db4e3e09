"""How a pod gets code from an address: nothing but what was meant, and nothing outside its folder."""

import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from controllers.functions import fetch


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "x = 1\n")
    return buffer.getvalue()


def tarred(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 6
        archive.addfile(member, io.BytesIO(b"x = 1\n"))
    return buffer.getvalue()


def fetched(tmp_path: Path, content: bytes, sha256: str | None = None) -> Path:
    source, target = tmp_path / "served", tmp_path / "pod" / "code"
    source.write_bytes(content)
    fetch.main(source.as_uri(), sha256 or hashlib.sha256(content).hexdigest(), str(target), "shop/invoice.py")
    return target


@pytest.mark.parametrize("content", [zipped("shop/invoice.py"), tarred("shop/invoice.py"), b"x = 1\n"])
def test_archives_are_unpacked_and_a_file_gets_its_modules_name(tmp_path: Path, content: bytes) -> None:
    assert (fetched(tmp_path, content) / "shop/invoice.py").read_text() == "x = 1\n"


def test_what_has_another_digest_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"spec\.source\.sha256: .* the file has changed"):
        fetched(tmp_path, zipped("a.py"), "0" * 64)
    assert not (tmp_path / "pod").exists()


def test_an_address_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"spec\.source\.url: file://.*absent"):
        fetch.main((tmp_path / "absent").as_uri(), "0" * 64, str(tmp_path), "a.py")


@pytest.mark.parametrize("made", [zipped, tarred])
@pytest.mark.parametrize("name", ["../escaped.py", "a/../../escaped.py"])
def test_nothing_is_written_outside_the_folder(tmp_path: Path, made: Callable[[str], bytes], name: str) -> None:
    with suppress(SystemExit):  # a tar is refused, a zip's names lose what leads out
        fetched(tmp_path, made(name))
    assert not list(tmp_path.glob("*.py")) + list((tmp_path / "pod").glob("*.py"))


@pytest.mark.parametrize("made", [zipped, tarred, str.encode])
def test_what_is_too_large_is_refused(
    tmp_path: Path, made: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 5)
    with pytest.raises(SystemExit, match=r"spec\.source\.url: .*(larger|more) than 0 MiB"):
        fetched(tmp_path, made("invoice.py"))


class Server(BaseHTTPRequestHandler):
    """Redirects /private to another server with its query; notes each path and its Authorization."""

    seen: ClassVar[list[tuple[str, str | None]]] = []
    elsewhere = ""

    def do_GET(self) -> None:
        self.seen.append((self.path.partition("?")[0], self.headers["authorization"]))
        if self.path.startswith("/private"):
            self.send_response(302)
            self.send_header("location", f"{self.elsewhere}/stored?signature=s")
            self.end_headers()
        elif self.path.startswith("/stored"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x = 1\n")
        else:
            self.send_error(404)

    def log_message(self, format: str, *arguments: object) -> None: ...


def test_credentials_go_to_the_address_only_and_no_message_shows_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FETCH_AUTHORIZATION", "Bearer t0k3n\n")
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Server) as server,
        ThreadingHTTPServer(("127.0.0.1", 0), Server) as other,
    ):
        for each in (server, other):
            Thread(target=each.serve_forever, daemon=True).start()
        Server.elsewhere = f"http://127.0.0.1:{other.server_port}"
        address = f"http://127.0.0.1:{server.server_port}"
        fetch.main(f"{address}/private", hashlib.sha256(b"x = 1\n").hexdigest(), str(tmp_path / "code"), "a.py")
        assert (tmp_path / "code" / "a.py").read_text() == "x = 1\n"
        assert Server.seen == [("/private", "Bearer t0k3n"), ("/stored", None)]
        for path in ("/absent?token=s3cr3t", "/stored?token=s3cr3t"):
            with pytest.raises(SystemExit) as ended:
                fetch.main(address + path, "0" * 64, str(tmp_path), "a.py")
            assert "s3cr3t" not in str(ended.value)
            assert address in str(ended.value)
        for each in (server, other):
            each.shutdown()
