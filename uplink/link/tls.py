"""Whom a connection trusts and as whom it comes: the files of TLS.

They are read anew for every connection, since certificates are replaced while a device
runs. OpenSSL says of a bad file little more than that it is bad; here each one is named.
"""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Any

from msgspec import Struct

from ...models.errors import ConfigError


class TlsFiles(Struct, frozen=True, kw_only=True):
    """The authorities to trust (None: the system's), and our certificate and its key.

    All are PEM. The key may lie in the certificate's file; one with a password is refused,
    since nobody is there to type it.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def check(self, *, tls: bool) -> None:
        """See that the files make sense together, and can be read now if ``tls``.

        Raises:
            ConfigError: they do not; ``where`` names the one that is wrong.
        """
        if self.key_file is not None and self.cert_file is None:
            raise ConfigError(
                "a key without a certificate", where=str(self.key_file), hint="give cert_file, too"
            )
        given = self.ca_file or self.cert_file
        if given is not None and not tls:
            raise ConfigError(
                "certificates need TLS", where=str(given), hint="mqtts:// or wss:// in the URL"
            )
        if tls:
            self.context()

    def context(self) -> ssl.SSLContext:
        """Return the context of one connection: TLS 1.2 or newer, the host's name verified.

        Raises:
            ConfigError: a file is no good; ``where`` names it.
        """
        if self.ca_file is not None:
            _read(self.ca_file)
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except ssl.SSLError as error:
            raise ConfigError("holds no certificates in PEM", where=str(self.ca_file)) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.cert_file is not None:
            _identify(context, self.cert_file, self.key_file or self.cert_file)
        return context


def explain(error: str) -> str:
    """Return what OpenSSL means: whose certificate is not accepted, by whom, and why."""
    if refused := re.search(r"alert ([a-z ]+)", error):
        return f"the broker refuses our side of TLS: {refused[1].strip()}"
    if distrusted := re.search(r"certificate verify failed: (.*?)(?: \(_ssl|$)", error):
        return f"the broker's certificate is not to be trusted: {distrusted[1]}"
    return error


def last_words(sock: Any) -> str | None:  # noqa: ANN401 -- a socket, or what paho wraps around it
    """Return the alert that the broker has left, if any; ``sock`` does not block.

    With TLS 1.3 our side has long begun to send when the broker sees our certificate. Where
    that fails first, the alert lies unread.
    """
    try:
        sock.recv(1)
    except ssl.SSLError as error:
        return str(error) if "alert" in str(error) else None
    except OSError:
        return None
    return None


def _identify(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    def refuse() -> str:
        raise ConfigError("the key has a password, which is not supported", where=str(key_file))

    if b"-----BEGIN CERTIFICATE-----" not in _read(cert_file):
        raise ConfigError("holds no certificate in PEM", where=str(cert_file))
    if b"PRIVATE KEY-----" not in _read(key_file):
        raise ConfigError("holds no private key in PEM", where=str(key_file))
    try:
        context.load_cert_chain(cert_file, key_file, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                "the key does not match the certificate", where=f"{key_file}, {cert_file}"
            ) from error
        raise ConfigError(
            f"certificate or key is damaged: {error}", where=f"{cert_file}, {key_file}"
        ) from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(file)) from error
