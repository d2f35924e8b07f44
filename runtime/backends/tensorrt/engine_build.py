"""An engine being built in a process of its own, watched by the loop without ever waiting."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from ....models.errors import HedgeError
from ....telemetry.clock import Clock, boottime_ns
from ...children import Child, ending
from ..first_line import first_line
from .build import WAITING, BuildRequest
from .engine import TensorRtModel

_log = logging.getLogger(__name__)

LIMIT_S = 3600.0
_EVERY_NS = 250_000_000
_LOGGED_EVERY_NS = 10_000_000_000
_TOLD_EVERY_NS = 1_000_000_000
_MODULE = "hedge.runtime.backends.tensorrt.build"


class BuildProgress(NamedTuple):
    """How far a build is: ``done`` from 0 to 1 and 1 only at its end, and what it does."""

    where: str
    done: float
    what: str
    seconds: float

    def __str__(self) -> str:
        """Return it for people."""
        how_far = f"{self.done:.0%}, {self.what}, {self.seconds:.0f} s"
        return f"building an engine for {self.where}: {how_far}"

    def to_systemd(self, *, more_s: float = 30.0) -> str:
        """Return it for systemd (sd_notify(3)), with a plea for that much more time."""
        return f"STATUS={self}\nEXTEND_TIMEOUT_USEC={more_s * 1e6:.0f}"


class EngineBuild:
    """A `Feed`: it asks the process how far it is, and takes the engine when it is there.

    The engine goes from ``opened`` to ``ready``, in the loop's thread, between two samples.
    It is tried once: if the process fails, or takes longer than ``limit_s`` (the wait for
    another build apart), that is logged and counted ("failed"), and things stay as they are.
    """

    def __init__(
        self,
        request: BuildRequest,
        *,
        folder: Path,
        opened: Callable[[], TensorRtModel],
        ready: Callable[[TensorRtModel], None],
        progress: Callable[[BuildProgress], None] | None = None,
        limit_s: float = LIMIT_S,
        clock: Clock = boottime_ns,
    ) -> None:
        self._where = request.where
        self._opened, self._ready = opened, ready
        self._progress = progress
        self._limit_ns = int(limit_s * 1e9)
        self._began_ns = self._since_ns = clock()
        self._due_ns = self._logged_ns = self._told_ns = 0
        self._done, self._what = 0.0, "starting"
        self.counts: Counter[str] = Counter()
        self._child: Child | None = None
        try:
            self._child = _started(request, folder)
        except OSError as error:
            self.counts["failed"] += 1
            _log.warning("%s: no engine can be built: %s", self._where, error)
        else:
            _log.info("%s: building an engine, which takes minutes", self._where)

    @property
    def is_over(self) -> bool:
        """Whether the process has ended, well or not."""
        return self._child is None

    def feed(self, now_ns: int) -> int | None:
        """Look how far the build is, every quarter of a second; None once it is over."""
        if self._child is None:
            return None
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + _EVERY_NS
            self._look(self._child, now_ns)
        return None if self.is_over else self._due_ns

    def close(self) -> None:
        """End the process, if it still runs."""
        if self._child is not None:
            self._end(self._child)

    def _look(self, child: Child, now_ns: int) -> None:
        code = child.process.poll()  # before its words are read, so that none come after
        for state in child.states():
            self._hear(state)
        if self._what == WAITING:
            self._since_ns = now_ns  # which is not this build's time
        if code is not None:
            self._finish(child, code, now_ns)
        elif now_ns - self._since_ns > self._limit_ns:
            self._fail(child, f"not ready within {self._limit_ns / 1e9:g} s, at {self._what}")
        else:
            self._tell(now_ns)

    def _hear(self, state: str) -> None:
        fields = dict(line.split("=", 1) for line in state.splitlines() if "=" in line)
        self._what = fields.get("STATUS", self._what)
        done = fields.get("X_HEDGE_DONE", "")
        if done.replace(".", "", 1).isdigit():
            self._done = min(0.999, max(self._done, float(done)))

    def _finish(self, child: Child, code: int, now_ns: int) -> None:
        if code != 0:
            self._fail(child, f"{ending(code)}: {_last_words(child)}")
            return
        try:
            self._ready(self._opened())
        except HedgeError as error:
            self._fail(child, str(error))
            return
        except Exception as error:  # noqa: BLE001 -- what serves must not go with its engine
            _log.exception("%s: a bug", self._where)
            self._fail(child, first_line(error))
            return
        self.counts["built"] += 1
        self._done, self._what = 1.0, "serving"
        self._told_ns = 0
        self._tell(now_ns)
        _log.info("%s: served by its engine from now on", self._where)
        self._end(child)

    def _fail(self, child: Child, why: str) -> None:
        self.counts["failed"] += 1
        _log.warning("%s: no engine, so things stay as they are: %s", self._where, why)
        self._end(child)

    def _tell(self, now_ns: int) -> None:
        state = BuildProgress(self._where, self._done, self._what, (now_ns - self._began_ns) / 1e9)
        if self._progress is not None and now_ns - self._told_ns >= _TOLD_EVERY_NS:
            self._told_ns = now_ns
            self._progress(state)
        if now_ns - self._logged_ns >= _LOGGED_EVERY_NS:
            self._logged_ns = now_ns
            _log.info("%s", state)

    def _end(self, child: Child) -> None:
        self._child = None
        child.close()
        child.log.unlink(missing_ok=True)


def _last_words(child: Child) -> str:
    try:
        return child.last_words()
    except OSError:
        return "and its log is gone"


def _started(request: BuildRequest, folder: Path) -> Child:
    """Start the process; its request is in a file of no name, so that nothing is left of it."""
    name = f"build-{request.key.model_sha256[:12]}-{request.key.precision}"
    with tempfile.TemporaryFile(dir=folder) as stdin:
        stdin.write(msgspec.msgpack.encode(request))
        stdin.seek(0)
        return Child(name, [], folder=folder, module=_MODULE, stdin=stdin)
