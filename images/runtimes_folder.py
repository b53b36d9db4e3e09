"""Makes the folder of the runtimes image: `runtimes_folder.py LANGUAGES TARGET`, beside a copy of the catalogue.

LANGUAGES has a folder for each language. The packages of a runtime are compiled for its version of Python, so pip takes
them as wheels for that version, no matter which version runs this file.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from runtimes import CATALOGUE  # controllers/functions/runtimes.py, put beside this file


def main(languages: Path, target: Path) -> None:
    for runtime in CATALOGUE:
        folder = target / runtime.name
        shutil.copytree(languages / runtime.language, folder, ignore=shutil.ignore_patterns("__pycache__"))
        version = runtime.name.removeprefix(runtime.language)
        options = ["--no-cache-dir", "--root-user-action=ignore", "--no-compile", "--only-binary=:all:"]
        places = [f"--python-version={version}", f"--target={folder / 'packages'}"]
        pip = [sys.executable, "-m", "pip", "install"]
        lock = Path(__file__).parent / "locks" / f"runtime-{runtime.name}.txt"  # a copy of the one in locks/
        locked = ["--require-hashes", f"--requirement={lock}"]
        subprocess.run([*pip, *options, *places, *locked], check=True)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
