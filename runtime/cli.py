"""The command line `hedge`: signals and errors, around whichever command is called."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from ..models.errors import HedgeError
from .children import die_with_parent
from .logs import complain, configure_logging

_INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 failed, 2 wrong input, 130 interrupted.

    3: done, and not to be taken as it is (`hedge quantize`, `hedge bench compare`).
    """
    interrupted: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- signal's own
        interrupted.append(number)
        raise KeyboardInterrupt

    given = sys.argv[1:] if arguments is None else arguments
    try:
        die_with_parent(os.environ)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, interrupt)  # a service has handlers of its own
        if "run" in given[:2] and not os.isatty(0):
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a reload, of what is not yet read
        code = _run(given)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        if interrupted:  # amid an import it comes as whatever that makes of it
            return _say("hedge: interrupted", _INTERRUPTED)
        match error:
            case HedgeError():
                return _say(f"hedge: {error}", 2)
            case BrokenPipeError():
                return _say(None, 1)
            case OSError():
                return _say(f"hedge: {error.filename or 'output'}: {error.strerror or error}", 1)
        raise
    return code


def _run(given: Sequence[str]) -> int:
    from .commands import parser  # noqa: PLC0415 -- takes a while, in which Ctrl-C must work

    name = next((one for one in given if not one.startswith("-")), None)
    options = parser(name).parse_args(given)
    configure_logging(verbose=options.verbose, environ=os.environ)
    code: int = options.run(options)
    return code


def _say(line: str | None, code: int) -> int:
    """Say why it ends; what standard output has not taken is dropped, or Python would insist."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if line is not None:
        complain(line, environ=os.environ)
    return code
