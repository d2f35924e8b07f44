"""A changed configuration, taken up while the loop goes on.

SIGHUP asks for it. In a thread of its own the configuration is read and checked, and every
stream that has changed is opened anew; the loop serves the old ones meanwhile. Only when all
of it is there the loop changes over, between two samples. What goes wrong before leaves
everything as it is: the last good configuration is kept, and log and status say why.

Streams that have not changed go on as they are, to the sample; a changed one keeps its
ledger and the samples that wait for an answer.
"""

from __future__ import annotations

import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import NamedTuple

from ..models.errors import ConfigError, HedgeError
from ..uplink.asks import Uplink
from .config import Config
from .events.events import Events
from .loop import Loop
from .notes import Notes
from .shared_since import Place, SharedSince
from .sinks.local import LocalSinks
from .sinks.options import MqttSinkConfig
from .sinks.sink import Sink
from .streams import Served, Streams, close_all

_log = logging.getLogger(__name__)

_GOODBYE_S = 1.0


class Change(NamedTuple):
    """All that is new, open and ready to serve."""

    config: Config
    served: dict[str, Served]
    sinks: LocalSinks


class Reload:
    """A `Feed` that changes what the loop serves, once `ask` was called.

    It owns the local sinks, which ``open_sinks`` opens; ``kept`` are those that stay, since
    they go over the broker. ``reread`` gives the configuration as it is then.
    """

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config],
        *,
        streams: Streams,
        sinks: LocalSinks,
        open_sinks: Callable[[Config, LocalSinks], LocalSinks],
        kept: Sequence[Sink],
        events: Events,
        loop: Loop,
        uplink: Uplink,
        notes: Notes,
        shared: SharedSince,
        renew: Callable[[Config], None],
        systemd: Callable[[str], None],
        bell: threading.Event,
    ) -> None:
        self._config = config
        self._reread = reread
        self._streams = streams
        self._sinks = sinks
        self._open_sinks = open_sinks
        self._kept = kept
        self._events = events
        self._loop = loop
        self._uplink = uplink
        self._notes = notes
        self._shared = shared
        self._renew = renew
        self._systemd = systemd
        self._bell = bell
        self._asked = False
        self._busy = False
        self._found: Change | HedgeError | None = None
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # it lives as long as we: children that it starts end with it (see `children`)
        self._thread = threading.Thread(target=self._work, name="hedge-reload", daemon=True)

    def counters(self) -> dict[str, int]:
        """Return what the local sinks have counted."""
        return self._sinks.counters()

    def ask(self) -> None:
        """Ask for it, from any thread."""
        self._asked = True
        self._bell.set()

    def feed(self, now_ns: int) -> None:  # noqa: ARG002 -- the protocol's signature
        """Begin what is asked for, and end what is ready; the bell rings for both."""
        if self._asked and not self._busy:
            self._asked, self._busy = False, True
            self._systemd(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
            if self._thread.ident is None:
                self._thread.start()
            self._tasks.put(self._prepare)
        found, self._found = self._found, None
        if found is not None:
            self._busy = False
            if isinstance(found, Change):
                self._change(found)
            else:
                self._refuse(found)

    def close(self) -> None:
        """Drop what is under way: the loop has ended."""
        if self._thread.ident is not None:
            self._tasks.put(None)
            self._thread.join(_GOODBYE_S)  # a model may take minutes to open
        if isinstance(self._found, Change):
            close_all(self._streams.new_among(self._found.served))
            self._found.sinks.close()
        self._sinks.close()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _prepare(self) -> None:
        self._found = self._prepared()
        self._bell.set()

    def _prepared(self) -> Change | HedgeError:
        try:
            return self._opened(self._reread())
        except HedgeError as error:
            return error
        except Exception as error:  # noqa: BLE001 -- a bug must not end what serves
            _log.exception("the configuration could not be taken up")
            return HedgeError(str(error))

    def _opened(self, config: Config) -> Change:
        _check_kept(self._config, config)
        served = self._streams.open_all(config)
        try:
            return Change(config, served, self._open_sinks(config, self._sinks))
        except BaseException:
            close_all(self._streams.new_among(served))
            raise

    def _change(self, change: Change) -> None:
        old, new = self._streams.served, change.served
        for name, one in new.items():
            before = old.get(name)
            if before is not None and before is not one and _agree(before, one):
                one.lane.waiting, before.lane.waiting = before.lane.waiting, {}
        self._loop.replace([one.lane for one in new.values()])  # to the old sinks and labels
        self._streams.serve(new)
        sinks = [*change.sinks.sinks, *self._kept]
        self._loop.use([*sinks, self._events])
        self._events.serve(self._streams.watched(), sinks)
        self._uplink.adopt(
            self._streams.contracts(),
            codecs={stream.name: stream.codec for stream in change.config.stream},
            since=self._shared.change(change.config.stream, lambda: _place(self._loop.next_id())),
        )
        self._renew(change.config)
        close_all(one for name, one in old.items() if new.get(name) is not one)
        self._streams.begin()  # now that nobody else holds a port, a socket or a camera
        self._tasks.put(functools.partial(change.sinks.succeed, self._sinks))
        self._sinks, self._config = change.sinks, change.config
        self._loop.counts["reloads"] += 1
        _log.warning("the configuration is taken up anew")
        self._systemd("READY=1\nSTATUS=serving")
        self._notes.say(None)

    def _refuse(self, error: HedgeError) -> None:
        self._loop.counts["reloads_refused"] += 1
        _log.error("the last good configuration is kept: %s", error)
        line = str(error).replace("\n", " ")
        self._systemd(f"READY=1\nSTATUS=serving; the last good configuration is kept: {line}")
        self._notes.say(f"the last good configuration is kept: {line}"[:200])


def _place(sample_id: str) -> Place:
    session, _, number = sample_id.rpartition("-")
    return int(session), int(number)


def _check_kept(old: Config, new: Config) -> None:
    """Refuse what cannot change under a running device.

    Raises:
        ConfigError: says which section wants a restart.
    """
    sections = {
        "[device]": (old.device, new.device),
        "[uplink]": (old.uplink, new.uplink),
        "[telemetry]": (old.telemetry, new.telemetry),
        "[[sink]] of kind mqtt": (_over_mqtt(old), _over_mqtt(new)),
    }
    for section, (before, after) in sections.items():
        if before != after:
            raise ConfigError("has changed, which takes a restart", where=section)


def _over_mqtt(config: Config) -> list[MqttSinkConfig]:
    return [sink for sink in config.sink if isinstance(sink, MqttSinkConfig)]


def _agree(one: Served, other: Served) -> bool:
    """Return whether an answer for the one is an answer for the other."""
    return one.contract == other.contract
