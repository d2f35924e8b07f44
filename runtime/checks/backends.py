"""The libraries and accelerators: whether each model opens and runs as it is asked to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ...models.errors import HedgeError
from ..backends.options import CPU, BackendOptions
from ..probe.messages import Probed
from ..trust import why_untrusted
from .finding import Finding, error, ok, refusal, warning
from .places import size_text

Probing = Callable[[], Probed]


def check_model(
    subject: str, probe: Probing, *, options: BackendOptions, found: list[Probed]
) -> Iterator[Finding]:
    """Try a model by ``probe``; what it costs goes to ``found``.

    A delegate that somebody else could have written is not loaded.
    """
    why = _why_no_delegate(options.delegate)
    if why is not None:
        yield error(
            "backend",
            subject,
            f"the delegate is not loaded: {why}",
            where="backend.delegate",
            todo="a delegate runs as this device: install it as root, writable by nobody else",
        )
        return
    try:
        probed = probe()
    except HedgeError as caught:
        yield refusal("backend", subject, caught)
        return
    found.append(probed)
    yield ok("backend", subject, said(probed))
    for name in options.providers:
        if name != CPU and name not in probed.runs_on:
            yield warning(
                "backend",
                subject,
                f"{name} is not there or could not start: the CPU does its work",
                where="backend.providers",
                todo="install an ONNX Runtime with it and its libraries, or leave it out",
            )
    if probed.tensorrt is not None:
        yield ok("backend", subject, f"{probed.tensorrt} takes over once its engine is built")
    if probed.without_tensorrt is not None:
        text = f"TensorRT does not take over: {probed.without_tensorrt}"
        yield warning("backend", subject, text, where="backend.use")
    cpus = os.cpu_count() or 1
    if options.threads is not None and options.threads > cpus:
        yield warning(
            "backend",
            subject,
            f"{options.threads} threads on {cpus} CPUs wait for each other",
            where="backend.threads",
            todo=f"set at most {cpus}",
        )


def said(probed: Probed) -> str:
    """Return what a model's probe has shown."""
    return (
        f"runs on {probed.runs_on}: opens in {probed.open_s:.2g} s, first call "
        f"{probed.first_s * 1e3:.2g} ms, then {probed.again_s * 1e3:.2g} ms; takes "
        f"{size_text(probed.model_bytes)}"
    )


def _why_no_delegate(path: str | None) -> str | None:
    if path is None:
        return None
    if not path.startswith("/"):
        return f"{path} is no absolute path"
    try:
        return why_untrusted(Path(path))
    except OSError as caught:
        return f"{path}: {caught.strerror}"
