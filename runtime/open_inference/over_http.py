"""The Open Inference Protocol over HTTP, with tensors as JSON.

By the standard library: the protocol needs a GET, a POST and JSON, and what its client
libraries add (an event loop of their own, no bound on an answer's size) is in the way.
A tensor's numbers survive JSON exactly: float32 is written and read as float64.
"""

from __future__ import annotations

import contextlib
import http.client
import ssl
import time
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.errors import ConfigError, ModelAwayError, ModelError
from .address import Address
from .server import DATATYPES, MAX_RESPONSE_BYTES, Description, Fed, shaped, unknown

_AWAY = frozenset({401, 403, 404, 408, 425, 429, 502, 503, 504})
_GONE = (http.client.RemoteDisconnected, ConnectionError, http.client.CannotSendRequest)
_PART_BYTES = 1 << 16


class _Output(Struct):
    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]


class _Answer(Struct):
    outputs: list[_Output]


class HttpServer:
    """A `Server` over one connection that is kept open. Proxies are not asked.

    Raises:
        ConfigError: the file of certificates cannot be read.
    """

    def __init__(self, address: Address, *, timeout_s: float, ca_file: Path | None = None) -> None:
        self._where = str(address)
        self._timeout_s = timeout_s
        self._health = f"{address.prefix}/v2/health/ready"
        version = "" if address.version is None else f"/versions/{quote(address.version)}"
        self._model = f"{address.prefix}/v2/models/{quote(address.model)}{version}"
        self._connection = http.client.HTTPConnection(address.host, address.port, timeout=timeout_s)
        if address.tls:
            self._connection = http.client.HTTPSConnection(
                address.host, address.port, timeout=timeout_s, context=_context(ca_file)
            )
        self._used = False

    def ready(self) -> None:
        """Ask the server, then for the model; see `Server`."""
        for path, what in ((self._health, "the server"), (f"{self._model}/ready", "the model")):
            status, body = self._call("GET", path)
            if status != http.HTTPStatus.OK:
                raise ModelAwayError(
                    f"{what} is not ready: {status} {_said(body)}", where=self._where
                )

    def describe(self) -> Description:
        """Fetch the metadata; see `Server`."""
        found: Description = self._read(self._ok("GET", self._model), Description)
        return found

    def infer(self, fed: Fed, *, output: str | None) -> NDArray[Any]:
        """Post the tensor; see `Server`."""
        question: dict[str, Any] = {
            "inputs": [
                {
                    "name": fed.name,
                    "datatype": fed.datatype,
                    "shape": fed.array.shape,
                    "data": fed.array.ravel().tolist(),
                }
            ]
        }
        if output is not None:
            question["outputs"] = [{"name": output}]
        body = self._ok("POST", f"{self._model}/infer", msgspec.json.encode(question))
        for one in self._read(body, _Answer).outputs:
            if output in {None, one.name}:
                return self._array(one)
        raise ModelError(f"answers without the output {output!r}", where=self._where)

    def close(self) -> None:
        """Hang up; see `Server`."""
        self._connection.close()

    def _array(self, given: _Output) -> NDArray[Any]:
        dtype = DATATYPES.get(given.datatype) or unknown(given.datatype, where=self._where)
        try:
            data = np.asarray(given.data, dtype)
        except (TypeError, ValueError) as error:  # null, text, lists of unequal length
            raise ModelError("answers what are no numbers", where=self._where) from error
        return shaped(data, given.shape, where=self._where)

    def _read(self, body: bytes, kind: type[Any]) -> Any:  # noqa: ANN401 -- an instance of kind
        try:
            return msgspec.json.decode(body, type=kind)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"answers no such JSON: {error}", where=self._where) from error

    def _ok(self, method: str, path: str, body: bytes | None = None) -> bytes:
        status, answer = self._call(method, path, body)
        if status == http.HTTPStatus.OK:
            return answer
        kind = ModelAwayError if status in _AWAY else ModelError
        raise kind(f"answers {status}: {_said(answer)}", where=self._where)

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Ask once; once more if the server has closed the connection that was kept open."""
        until_s = time.monotonic() + self._timeout_s
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            try:
                return self._exchange(method, path, body, headers, until_s=until_s)
            except _GONE:
                if not self._used:
                    raise
                self._hang_up()
                return self._exchange(method, path, body, headers, until_s=until_s)
        except (OSError, http.client.HTTPException) as error:
            self._hang_up()
            self._away(error)
        except ModelError:
            self._hang_up()
            raise

    def _exchange(
        self, method: str, path: str, body: bytes | None, headers: dict[str, str], *, until_s: float
    ) -> tuple[int, bytes]:
        connection = self._connection
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        parts, size = [], 0
        while part := response.read1(_PART_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_RESPONSE_BYTES:
                raise ModelError(f"answers more than {MAX_RESPONSE_BYTES} bytes", where=self._where)
            if time.monotonic() > until_s:
                raise TimeoutError("the answer does not end")
        response.close()  # read1 leaves it open, though all of it is read
        self._used = not response.will_close
        return response.status, b"".join(parts)

    def _hang_up(self) -> None:
        self._used = False
        with contextlib.suppress(OSError):
            self._connection.close()

    def _away(self, error: Exception) -> NoReturn:
        why = _said(str(error).encode()) or type(error).__name__
        raise ModelAwayError(f"cannot be reached: {why}", where=self._where) from error


def _said(body: bytes) -> str:
    """Return the beginning of what was said, on one line."""
    text = body[:200].decode("utf-8", "replace")
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"no certificates: {error}", where=str(ca_file)) from error
