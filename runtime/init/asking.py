"""How what the flags do not say is found out: by asking on a terminal, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TextIO, TypeVar

from ...models.errors import ConfigError, HedgeError

Answer = TypeVar("Answer")
_ATTEMPTS = 10


class Ask(Protocol):
    """Finds out one thing."""

    def __call__(
        self,
        question: str,
        *,
        flag: str,
        accept: Callable[[str], Answer],
        default: str | None = None,
        offers: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """Return what ``accept`` makes of the answer.

        ``offers`` are answers that suggest themselves, each with what it is; without an answer
        it is the ``default``, where there is one. ``flag`` would have said it.

        Raises:
            HedgeError: there is no answer, or none that ``accept`` takes.
        """


def unasked(
    question: str,
    *,
    flag: str,
    accept: Callable[[str], Answer],
    default: str | None = None,
    offers: Sequence[tuple[str, str]] = (),
) -> Answer:
    """Take the default, for nobody can be asked; see `Ask`."""
    if default is not None:
        return accept(default)
    found = ", ".join(text for text, _ in offers)
    raise ConfigError(
        f"is missing: {question[0].lower()}{question[1:]}",
        where=flag.partition(" ")[0],
        hint=f"give {flag}" + (f", as one of {found}" if found else ""),
    )


class Terminal:
    """Asks on ``out`` and reads lines of ``answers``; see `Ask`. A number takes an offer."""

    def __init__(self, answers: TextIO, out: TextIO) -> None:
        self._answers = answers
        self._out = out

    def __call__(
        self,
        question: str,
        *,
        flag: str,
        accept: Callable[[str], Answer],
        default: str | None = None,
        offers: Sequence[tuple[str, str]] = (),
    ) -> Answer:
        """Ask until the answer is one; after some that are none it gives up."""
        for place, (text, what) in enumerate(offers, 1):
            self._say(f"  {place}) {text}{f'  {what}' if what else ''}\n")
        shown = f" [{default or 'none'}]" if default is not None else ""
        caught: HedgeError = ConfigError("no answer", where=flag)
        for _ in range(_ATTEMPTS):
            self._say(f"{question}{shown}: ")
            answer = self._line()
            if answer.isdecimal() and 0 < int(answer) <= len(offers):
                answer = offers[int(answer) - 1][0]
            answer = answer or default or ""
            try:
                if not answer and default is None:
                    continue
                return accept(answer)
            except HedgeError as error:
                caught = error
                self._say(f"  {error}\n")
        raise caught

    def _line(self) -> str:
        line = self._answers.readline()
        if not line:  # Ctrl-D, or the terminal is gone
            self._say("\n")
            raise KeyboardInterrupt
        return line.strip()

    def _say(self, text: str) -> None:
        self._out.write(text if text.rstrip("\n").isprintable() else ascii(text)[1:-1] + "\n")
        self._out.flush()
