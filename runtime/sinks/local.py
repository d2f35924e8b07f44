"""The sinks that are the device's own: files, the terminal, an address, a program."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from ...models.errors import ConfigError
from ..config import Config
from .command import Command
from .json_lines import JsonLines
from .options import (
    AnySink,
    CommandSink,
    HttpSink,
    JsonLinesSink,
    MqttSinkConfig,
    SqliteSink,
    TerminalSink,
)
from .over_http import OverHttp
from .sink import Sink
from .terminal import Terminal

Labels = Mapping[str, tuple[str, ...]]


class LocalSink(Sink, Protocol):
    """A sink that counts what it could not do, and that can be told to end before it is closed."""

    def counters(self) -> dict[str, int]:
        """Copy what it has counted."""

    def stop(self) -> None:
        """Take no more; `close` waits a moment, counted from here, for what is under way."""


class _Opened(NamedTuple):
    options: AnySink
    sink: LocalSink


class LocalSinks:
    """Open sinks, each with the options that it was opened with."""

    def __init__(self, opened: tuple[_Opened, ...] = ()) -> None:
        self._opened = opened
        self._past: Counter[str] = Counter()  # of sinks that a reload has closed

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Them, in the order of the configuration."""
        return tuple(one.sink for one in self._opened)

    def counters(self) -> dict[str, int]:
        """Return what they and those before them have counted: sums over sinks of a kind."""
        found = Counter(self._past)
        for one in self._opened:
            found.update(one.sink.counters())
        return dict(found)

    def find(self, options: AnySink) -> _Opened | None:
        """Return what is open for these very options."""
        return next((one for one in self._opened if one.options == options), None)

    def succeed(self, before: LocalSinks) -> None:
        """Take the place of ``before``: close what was not taken over, and count on.

        A program that still runs has a moment to end: it is called beside the loop.
        """
        past = Counter(before._past)
        gone = [one for one in before._opened if not any(one.sink is own for own in self.sinks)]
        _close_all(gone)
        for one in gone:
            past.update(one.sink.counters())
        self._past = past

    def close(self) -> None:
        """Close them, all within one moment; closing twice is harmless."""
        _close_all(self._opened)


def _close_all(opened: Sequence[_Opened]) -> None:
    """Ask all of them to end before the first is waited for: those that hang do so together."""
    with contextlib.ExitStack() as stack:
        for one in opened:
            stack.callback(one.sink.close)
            one.sink.stop()


def open_sinks(
    config: Config, labels: Labels, *, base: Path, before: LocalSinks | None = None
) -> LocalSinks:
    """Open them; those over the broker are part of the way out.

    ``labels`` is what they call the classes, by stream. Relative paths begin at ``base``. What
    ``before`` has open for the same options is taken over as it is (see `LocalSinks.succeed`).

    Raises:
        ConfigError: a file cannot be written, or holds something else; a program is missing.
    """
    found: list[_Opened] = []
    with contextlib.ExitStack() as stack:
        for options in config.sink:
            if isinstance(options, MqttSinkConfig):
                continue
            there = None if before is None else before.find(options)
            if there is not None and not any(there is one for one in found):
                found.append(there)
                continue
            found.append(_Opened(options, _open(options, labels, base=base)))
            stack.callback(found[-1].sink.close)
        stack.pop_all()
    return LocalSinks(tuple(found))


def _open(
    options: JsonLinesSink | TerminalSink | SqliteSink | HttpSink | CommandSink,
    labels: Labels,
    *,
    base: Path,
) -> LocalSink:
    match options:
        case JsonLinesSink():
            return JsonLines(
                base / options.path,
                labels=labels,
                which=options.which,
                max_bytes=options.max_bytes,
                max_age_s=options.max_age_s,
                keep=options.keep,
                keep_days=options.keep_days,
            )
        case TerminalSink():
            return Terminal(labels=labels)
        case SqliteSink():
            return _sqlite(options, labels, base=base)
        case HttpSink():
            return OverHttp(options.listen, labels=labels, which=options.which, keep=options.keep)
        case CommandSink():
            return Command(
                options.argv,
                labels=labels,
                folder=base,
                which=options.which,
                states=options.states,
                timeout_s=options.timeout_s,
                queue=options.queue,
            )


def _sqlite(options: SqliteSink, labels: Labels, *, base: Path) -> LocalSink:
    try:
        from .sqlite import Sqlite  # noqa: PLC0415 -- some builds of Python lack sqlite3
    except ImportError as error:
        raise ConfigError(
            "this Python is built without sqlite3", where="sink of kind sqlite", hint=str(error)
        ) from error
    return Sqlite(
        base / options.path,
        labels=labels,
        which=options.which,
        max_bytes=options.max_bytes,
        keep_days=options.keep_days,
        commit_s=options.commit_s,
    )
