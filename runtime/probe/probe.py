"""The probe: a process that opens a model and runs it, and may die of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from ...models.errors import ModelError
from ..backends.options import BackendOptions
from ..children import PARENT, ending
from .free_memory import free_bytes
from .messages import TASK, Probed, Refused, Task

TIMEOUT_S = 60.0
_LAST_BYTES = 4096
_ROOM_BYTES = 64 << 20  # the least that a process is given


class Fed(NamedTuple):
    """One sample as the graph is fed it, without the batch axis."""

    shape: tuple[int, ...]
    dtype: str


def probe_model(
    data: bytes,
    *,
    format: str,  # noqa: A002  the manifest's own word
    where: str,
    options: BackendOptions | None = None,
    output: str | None = None,
    sample: Fed | None = None,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int | None = None,
) -> Probed:
    """Open a model in a process of its own, run it on zeros, and return what was found.

    It is opened as `open_model` opens it, and fed one row twice and two rows once. The process
    may take ``max_bytes`` beyond what Python needs (None: as much as is free), ends with this
    one, and is killed after ``timeout_s``. It knows none of our secrets.

    Raises:
        ModelError: it is refused, crashes, takes too long or too much memory.
        ConfigError: ``options`` ask for what this machine has not.
    """
    task = Task(
        format=format,
        where=where,
        options=options or BackendOptions(),
        output=output,
        shape=None if sample is None else sample.shape,
        dtype=None if sample is None else sample.dtype,
        max_bytes=max(_ROOM_BYTES, free_bytes() if max_bytes is None else max_bytes),
    )
    with _last_words() as (words, mouth), _child(task, mouth=mouth) as child:
        try:
            report = child.communicate(data, timeout=timeout_s)[0]
        except subprocess.TimeoutExpired as error:
            raise ModelError(
                f"does not open and run within {timeout_s:g} s", where=where, hint=_suspect(task)
            ) from error
    if child.returncode != 0:
        raise _crash(child.returncode, words.decode("utf-8", "replace"), task)
    found = msgspec.json.decode(report, type=Probed | Refused)
    if isinstance(found, Refused):
        raise found.error()
    return found


@contextlib.contextmanager
def _child(task: Task, *, mouth: int) -> Iterator[subprocess.Popen[bytes]]:
    """Start the probe, and end it whatever happens."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("HEDGE")}
    for key in ("NOTIFY_SOCKET", "WATCHDOG_USEC"):
        environ.pop(key, None)
    told = {TASK: msgspec.json.encode(task).decode(), PARENT: str(os.getpid())}
    child = subprocess.Popen(  # noqa: S603 -- our own module, no shell
        [sys.executable, "-m", f"{__package__}.child"],
        env={**environ, **told},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=mouth,
        start_new_session=True,
        cwd="/",  # else Python would import whatever lies where we were started
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


@contextlib.contextmanager
def _last_words() -> Iterator[tuple[bytearray, int]]:
    """Give the end of what will be said, complete on leaving, and the descriptor to say it to."""
    words = bytearray()
    ear, mouth = os.pipe()

    def listen() -> None:
        while said := os.read(ear, 1 << 16):
            words.extend(said)
            del words[:-_LAST_BYTES]

    listener = threading.Thread(target=listen, name="hedge-probe", daemon=True)
    listener.start()
    try:
        yield words, mouth
    finally:
        os.close(mouth)
        listener.join()
        os.close(ear)


def _suspect(task: Task) -> str | None:
    """Return what is to be left out first: a library of somebody else's, if one is loaded."""
    delegate = task.options.delegate if task.format == "tflite" else None
    return None if delegate is None else f"with the delegate {delegate}; try without it"


def _crash(returncode: int, words: str, task: Task) -> ModelError:
    how = ending(returncode)
    if how.endswith("SIGKILL"):
        how = f"{how}, as the system does where memory runs out"
    lines = [line.strip() for line in words.splitlines() if not line.startswith("INFO:")]
    said = "".join(filter(str.isprintable, (lines or [""])[-1]))[:200]
    return ModelError(
        f"crashes its runtime: {how}{said and f' ({said})'}",
        where=task.where,
        hint=_suspect(task)
        or "the file is damaged, or its library cannot run it; try another variant or version",
    )
