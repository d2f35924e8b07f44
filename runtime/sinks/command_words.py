"""The arguments of a command: words in braces, and what they stand for.

No value becomes more than the argument that its word stands in. One that begins an argument,
and that begins with "-" itself, would be an option: it is refused, unless "--" stands before.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...models.errors import ConfigError
from ...models.records import Outcome
from ..events.event import Event

_WORDS = ("stream", "label", "id", "state", "event", "route", "probability", "clip")
_WORD = re.compile(r"\{([a-z_]+)\}")


def checked(argv: Sequence[str], *, folder: Path) -> tuple[str, ...]:
    """Return the command with its program's path.

    Raises:
        ConfigError: there is no such program, it cannot be run, or a word is unknown.
    """
    program, *others = argv
    for argument in argv:
        for word in _WORD.findall(argument):
            if word not in _WORDS:
                known = " ".join(f"{{{one}}}" for one in _WORDS)
                raise ConfigError(f"{{{word}}} is no word", where="sink.argv", hint=known)
    if _WORD.search(program):
        raise ConfigError(
            "no value may choose the program", where="sink.argv", hint="name it by its path"
        )
    if "/" in program:
        place: str | None = str((folder / program).absolute())
        hint = "give its path, and make it executable (chmod +x)"
    else:
        place = shutil.which(program)
        hint = "give its path; the service has a PATH of its own"
    if place is None or not (Path(place).is_file() and os.access(place, os.X_OK)):
        raise ConfigError(f"{program}: no program that can be run", where="sink.argv", hint=hint)
    return (place, *others)


def values_of(said: Outcome | Event, labels: tuple[str, ...]) -> dict[str, str]:
    """Return what each word stands for; what does not apply is empty."""
    if isinstance(said, Event):
        return {
            "stream": said.stream,
            "id": said.id,
            "label": said.label,
            "state": said.state,
            "event": said.event,
            "route": "",
            "probability": _number(said.peak),
            "clip": "" if said.clip is None else said.clip.path or "",
        }
    return {
        "stream": said.stream,
        "id": said.id,
        "label": "" if said.label is None else labels[said.label],
        "state": "final" if said.final else "first",
        "event": "",
        "route": said.route,
        "probability": _number(None if said.probs is None else float(said.probs.max())),
        "clip": "",
    }


def filled(argv: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """Return the arguments with the words replaced, each once.

    Raises:
        ValueError: a value would begin an option, or has a NUL.
    """
    arguments: list[str] = []
    for argument in argv:
        text = _WORD.sub(lambda found: values[found[1]], argument)
        if text.startswith("-") and not argument.startswith("-") and "--" not in arguments:
            raise ValueError(f"{text[:80]!r} would be an option of {argv[0]}: put -- before it")
        if "\x00" in text:
            raise ValueError(f"a value for {argument!r} has a NUL")
        arguments.append(text)
    return arguments


def _number(probability: float | None) -> str:
    return "" if probability is None else f"{probability:.6f}"
