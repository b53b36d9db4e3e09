"""The certificate and the key that all replicas of a release have, to know each other by."""

import hmac
import logging
import ssl
from pathlib import Path

log = logging.getLogger(__name__)

_PURPOSE = b"kubeirq replica"


class SharedCertificate:
    """Has `tls.crt` and `tls.key` of a folder. A replica accepts only this certificate from another one.

    A replica proves to another one that it has the key by a token, which it sends over such a connection only.
    """

    def __init__(self, folder: Path) -> None:
        self.to_serve = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._to_ask: ssl.SSLContext | None = None
        self._token = ""
        self._files = folder / "tls.crt", folder / "tls.key"
        self._content: tuple[bytes, ...] = ()
        self._problem = ""
        self.refresh()

    @property
    def to_ask(self) -> ssl.SSLContext:
        """Raises OSError if there is no certificate."""
        if self._to_ask is None:
            raise OSError(self._problem)
        return self._to_ask

    @property
    def token(self) -> str:
        return self._token

    def is_token(self, text: str) -> bool:
        return self._token != "" and hmac.compare_digest(text.encode(errors="replace"), self._token.encode())

    def refresh(self) -> None:
        """Reads the files again, if others are there. Connections that are open stay so."""
        try:
            content = tuple(path.read_bytes() for path in self._files)
            if content == self._content:
                return
            self.to_serve.load_cert_chain(*self._files)
            to_ask = ssl.create_default_context(cadata=_first_in(content[0].decode()))
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
            problem = f"the certificate in {self._files[0].parent} cannot be used: {error}"
            if self._problem != problem:
                log.error("certificate not read", extra={"problem": problem})
            self._problem = problem
            return
        to_ask.check_hostname = False  # it is the only certificate that this context trusts
        to_ask.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it is not an authority's
        to_ask.verify_flags &= ~ssl.VERIFY_X509_STRICT
        self._to_ask = to_ask
        self._token = hmac.digest(content[1], _PURPOSE, "sha256").hex()
        self._content, self._problem = content, ""


def _first_in(chain: str) -> str:
    """The certificate itself. Those of its authorities follow it, and they issue others."""
    certificate, end, _ = chain.partition("-----END CERTIFICATE-----")
    return certificate + end
