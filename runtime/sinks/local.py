"""The sinks that are the device's own: files and the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ..config import Config, JsonLinesSink, MqttSinkConfig, TerminalSink
from .json_lines import JsonLines
from .sink import Sink
from .terminal import Terminal


class LocalSinks(NamedTuple):
    """Open sinks, and what closes them."""

    sinks: tuple[Sink, ...]
    stack: contextlib.ExitStack

    def close(self) -> None:
        """Close them; closing twice is harmless."""
        self.stack.close()


def open_sinks(config: Config, labels: Mapping[str, tuple[str, ...]], *, base: Path) -> LocalSinks:
    """Open them; those over the broker are part of the way out.

    ``labels`` is what they call the classes, by stream. Relative paths begin at ``base``.

    Raises:
        ConfigError: a file cannot be written, or holds something else.
    """
    sinks: list[Sink] = []
    with contextlib.ExitStack() as stack:
        for sink in config.sink:
            match sink:
                case JsonLinesSink(path=path):
                    sinks.append(JsonLines(base / path, labels=labels))
                case TerminalSink():
                    sinks.append(Terminal(labels=labels))
                case MqttSinkConfig():
                    continue
            stack.callback(sinks[-1].close)
        return LocalSinks(tuple(sinks), stack.pop_all())
