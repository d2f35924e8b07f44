"""Every error that hedge raises on purpose.

::

    HedgeError                what went wrong, where, and what to do
    ├── ConfigError           a configuration file, flag or variable
    ├── DataError             a data set, a sample or a source
    ├── SourceError           a live source that is not there for now
    ├── BundleError           a bundle that cannot be read or trusted
    ├── ModelError            a model that cannot be opened or run
    │   └── ModelAwayError    a model whose server is not there for now
    ├── MissingExtraError     an optional library that is not installed
    └── UplinkError           the link, the broker or the far end
        └── WireError         bytes that are no valid message
"""

from __future__ import annotations


class HedgeError(Exception):
    """One line that says what is wrong, where, and what to do about it."""

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what = what
        self.where = where
        self.hint = hint
        super().__init__(what, where, hint)

    def __str__(self) -> str:
        line = self.what if self.where is None else f"{self.where}: {self.what}"
        return line if self.hint is None else f"{line} ({self.hint})"


class ConfigError(HedgeError):
    """A configuration file, flag or variable is wrong; ``where`` is its dotted key."""


class DataError(HedgeError):
    """A data set, a sample or a source is not what it should be."""


class SourceError(HedgeError):
    """A live source is not there, or has gone away; it is tried again."""


class BundleError(HedgeError):
    """A bundle cannot be read or trusted; ``where`` is the file or the manifest key."""


class ModelError(HedgeError):
    """A model cannot be opened, or failed on its input."""


class ModelAwayError(ModelError):
    """The server that runs a model is not there for now; what it was asked can be asked again."""


class MissingExtraError(HedgeError):
    """An optional library is not installed; ``hint`` is the command that installs it."""

    def __init__(self, library: str, *, extra: str) -> None:
        self.extra = extra
        super().__init__(
            f"{library} is not installed", hint=f"pip install 'hedge-runtime[{extra}]'"
        )


class UplinkError(HedgeError):
    """The link, the broker or the far end failed."""


class WireError(UplinkError):
    """Bytes from the network are no valid message; the message is counted and dropped."""
