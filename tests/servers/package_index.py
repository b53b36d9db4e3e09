"""An index of Python packages as pip reads it: folders of wheels over HTTP, in a process of its own."""

import asyncio
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from servers.kubernetes import MORTAL
from servers.ports import free_port


@asynccontextmanager
async def package_index(folder: Path, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The index's address; what `add_wheel` puts into the folder is found at once. Stopped by pid at the end."""
    port = free_port()
    # its listing of a folder is what PEP 503 asks for: a page of links
    process = await asyncio.create_subprocess_exec(
        *MORTAL, sys.executable, "-m", "http.server", str(port), "--bind", host, "--directory", str(folder),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(20):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, port)
                except OSError:
                    assert process.returncode is None
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    break
        yield f"http://{host}:{port}/"
    finally:
        process.kill()
        await process.wait()


def add_wheel(folder: Path, name: str, version: str, text: str) -> None:
    """A distribution of one module, whose text this is."""
    place = folder / name
    place.mkdir(exist_ok=True)
    information = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(place / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", text)
        wheel.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{information}/RECORD", f"{name}.py,,\n{information}/METADATA,,\n{information}/WHEEL,,\n")
