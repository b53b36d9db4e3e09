"""Makes the folder of the runtimes image: `runtimes_folder.py SERVERS TARGET`, beside a copy of the catalogue.

What a server imports is compiled for its own version of Python, so it is taken as wheels, whichever version runs this.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from runtimes import CATALOGUE  # controllers/functions/runtimes.py, put beside this file


def main(servers: Path, target: Path) -> None:
    for runtime in CATALOGUE:
        folder = target / runtime.name
        folder.mkdir(parents=True)
        shutil.copy(servers / runtime.language / "server.py", folder)
        version = runtime.name.removeprefix(runtime.language)
        options = ["--no-cache-dir", "--root-user-action=ignore", "--no-compile", "--only-binary=:all:"]
        places = [f"--python-version={version}", f"--target={folder / 'packages'}"]
        pip = [sys.executable, "-m", "pip", "install"]
        lock = Path(__file__).parent / "locks" / f"runtime-{runtime.name}.txt"  # a copy of the one in locks/
        locked = ["--require-hashes", f"--requirement={lock}"]
        subprocess.run([*pip, *options, *places, *locked], check=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
