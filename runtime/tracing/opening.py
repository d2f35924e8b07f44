"""Which tracer a configuration asks for."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from ...models.errors import ConfigError
from ...telemetry.clock import Clock, boottime_ns
from ...uplink.far_end.traces import NoTraces, Traces
from ...uplink.topics import Device
from ..credentials import secret_path
from .device_tracer import DeviceTracer
from .far_end_traces import FarEndTraces
from .options import TracesOptions
from .otlp import OtlpSpans
from .spans import Spans
from .tracer import NullTracer, Tracer

_PATH = "/v1/traces"  # of OTLP/HTTP, below a collector's URL
_HEADER = re.compile(
    r"([A-Za-z0-9!#$%&'*+.^_`|~-]+)[ \t]*:[ \t]*([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)"
)
_HINT = "http://host:4318 or https://host/path"


def open_tracer(
    options: TracesOptions | None,
    *,
    device: str,
    site: str,
    version: str,
    base: Path = Path(),
    clock: Clock = boottime_ns,
) -> Tracer:
    """Return the tracer of a device, or one that does nothing; paths begin at ``base``.

    Raises:
        ConfigError: the endpoint or one of the files is no good.
        MissingExtraError: OpenTelemetry is not installed.
    """
    if options is None:
        return NullTracer()
    who = {
        "service.name": "hedge",
        "service.namespace": site,
        "service.instance.id": device,
        "service.version": version,
        "hedge.site": site,
        "hedge.device": device,
    }
    spans = _open_spans(options, who=who, base=base, clock=clock)
    return DeviceTracer(spans, device=Device(site, device), options=options, clock=clock)


def open_traces(
    options: TracesOptions | None, *, worker: str, version: str, clock: Clock = boottime_ns
) -> Traces:
    """Return what continues the traces of devices in a worker, or what passes them over.

    Raises:
        ConfigError: the endpoint or one of the files is no good.
        MissingExtraError: OpenTelemetry is not installed.
    """
    if options is None:
        return NoTraces()
    who = {
        "service.name": "hedge-worker",
        "service.instance.id": worker,
        "service.version": version,
    }
    return FarEndTraces(_open_spans(options, who=who, base=Path(), clock=clock))


def _open_spans(options: TracesOptions, *, who: dict[str, str], base: Path, clock: Clock) -> Spans:
    url = traces_url(options.endpoint)
    ca_file = _handed(options.ca_file, base=base)
    _check_trust(ca_file, url=url)
    headers_file = _handed(options.headers_file, base=base)
    headers = {} if headers_file is None else read_headers(headers_file)
    return OtlpSpans(
        url,
        headers=headers,
        ca_file=None if ca_file is None else str(ca_file),
        resource=who,
        clock=clock,
    )


def _handed(name: str | None, *, base: Path) -> Path | None:
    return None if name is None else secret_path(name, base=base, environ=os.environ)


def traces_url(endpoint: str) -> str:
    """Return where the spans of a collector go: its URL with OTLP's path below it.

    Raises:
        ConfigError: it is no URL of http or https, or holds more than a place.
    """
    try:
        parts = urlsplit(endpoint)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named or parts.scheme not in {"http", "https"} or re.search(r"[\s\x00-\x1f]", endpoint):
        raise ConfigError("not a collector's URL", where="traces endpoint", hint=_HINT)
    if parts.username is not None or parts.query or parts.fragment:  # it stands in logs
        raise ConfigError(
            "a collector's URL holds a place and no more",
            where="traces endpoint",
            hint="keys and passwords go into headers_file",
        )
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith(_PATH) else path + _PATH}"


def read_headers(file: Path) -> dict[str, str]:
    """Return the headers of ``file``, a line ``Name: value`` each; nothing of it is ever shown.

    Raises:
        ConfigError: it cannot be read, or a line is no header.
    """
    try:
        lines = file.read_text("ascii").splitlines()
    except OSError as error:
        what = f"the headers cannot be read: {error.strerror}"
        raise ConfigError(what, where=str(file)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("the headers are not ASCII", where=str(file)) from error
    found = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        header = _HEADER.fullmatch(text)
        if header is None:
            raise ConfigError("no header", where=f"{file}:{number}", hint="Name: value")
        found[header[1].lower()] = header[2]
    return found


def _check_trust(ca_file: Path | None, *, url: str) -> None:
    """See that the authorities make sense.

    Raises:
        ConfigError: they do not.
    """
    if ca_file is None:
        return
    where = str(ca_file)
    if not url.startswith("https:"):
        raise ConfigError("certificates need TLS", where=where, hint="https:// in the endpoint")
    try:
        ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise ConfigError("holds no certificates in PEM", where=where) from error
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=where) from error
