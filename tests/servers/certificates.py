"""A certificate authority of a test's own, by the program openssl."""

import asyncio
import subprocess
from dataclasses import dataclass
from pathlib import Path

ELLIPTIC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
SHORT_LIVED = ("-days", "2")


@dataclass(frozen=True)
class Authority:
    """Its certificate and everyone's pairs are files of one folder, `NAME.crt` and `NAME.key`."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.crt"

    async def create(self) -> None:
        pair = ("-keyout", str(self.folder / "authority.key"), "-out", str(self.certificate))
        await _openssl("req", "-x509", *ELLIPTIC, *pair, "-subj", "/CN=authority", *SHORT_LIVED)

    async def issue(self, name: str, subject: str, alternative_names: str = "DNS:localhost") -> tuple[Path, Path]:
        """A certificate and its key. `subject` as openssl writes it: `/O=system:masters/CN=admin`."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        signer = ("-CA", str(self.certificate), "-CAkey", str(self.folder / "authority.key"))
        await _openssl(
            "req", "-x509", *ELLIPTIC, *signer, "-keyout", str(key), "-out", str(certificate), *SHORT_LIVED,
            "-subj", subject, "-addext", f"subjectAltName={alternative_names}",
            "-addext", "basicConstraints=critical,CA:false",
        )  # fmt: skip
        return certificate, key


async def _openssl(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "openssl", *arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()
