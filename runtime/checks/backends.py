"""The libraries and accelerators: whether each model opens and runs as it is asked to."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ...models.errors import HedgeError
from ..backends.options import CPU, BackendOptions
from ..probe.messages import Probed
from ..trust import why_untrusted
from .amounts import size_text, time_text
from .finding import Finding, error, ok, refusal, warning

Probing = Callable[[], Probed]
_MUCH_BYTES = 1_000_000_000
_LONG_S = 1.0


def check_model(
    subject: str, probe: Probing, *, options: BackendOptions, found: list[Probed]
) -> Iterator[Finding]:
    """Try a model by ``probe``; what it costs goes to ``found``.

    A delegate that somebody else could have written is not loaded.
    """
    no_delegate = None if options.delegate is None else _no_delegate(subject, options.delegate)
    if no_delegate is not None:
        yield no_delegate
        return
    try:
        probed = probe()
    except HedgeError as caught:
        yield refusal("backend", subject, caught)
        return
    found.append(probed)
    yield ok("backend", subject, said(probed))
    yield from _costs(subject, probed)
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
        f"runs on {probed.runs_on}: opens in {time_text(probed.open_s)}, first call "
        f"{time_text(probed.first_s)}, then {time_text(probed.again_s)}; takes "
        f"{size_text(probed.model_bytes)}"
    )


def _costs(subject: str, probed: Probed) -> Iterator[Finding]:
    """Yield what a model does that few devices can bear, or that nobody can have meant."""
    if probed.again_s > _LONG_S:
        text = f"takes {time_text(probed.again_s)} for a sample"
        yield warning("backend", subject, text, todo="choose a smaller or a quantised variant")
    if probed.model_bytes > _MUCH_BYTES:
        text = f"takes {size_text(probed.model_bytes)} of memory"
        yield warning("backend", subject, text, todo="choose a smaller or a quantised variant")
    if not probed.finite:
        yield warning(
            "backend",
            subject,
            "gives NaN or Inf on zeros",
            todo="a model that normalises each sample may; see that it does not on real samples",
        )


def _no_delegate(subject: str, path: str) -> Finding | None:
    """Return why the delegate may not be loaded, and what helps; None: it may."""
    if not path.startswith("/"):
        why, todo = f"{path} is no absolute path", "give the path from / on"
    else:
        try:
            untrusted = why_untrusted(Path(path))
        except FileNotFoundError:
            why, todo = f"{path} is missing", "install it, or correct the path"
        except OSError as caught:
            why, todo = f"{path} cannot be looked at: {caught.strerror}", "correct the path"
        else:
            if untrusted is None:
                return None
            why = untrusted
            todo = "a delegate runs as this device: install it as root, writable by nobody else"
    what = f"the delegate is not loaded: {why}"
    return error("backend", subject, what, where="backend.delegate", todo=todo)
