"""A configuration beside its place, checked as it will lie there, then put there in one step."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from ...models.errors import ConfigError


@contextlib.contextmanager
def beside(path: Path, data: bytes) -> Iterator[Path]:
    """Give a file that holds ``data`` in the folder of ``path``; it is gone afterwards.

    Raises:
        ConfigError: the folder cannot be written.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            with fresh.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error
        yield fresh
    finally:
        fresh.unlink(missing_ok=True)


def put(fresh: Path, path: Path, *, replace: bool) -> None:
    """Put the file ``fresh`` at ``path``; what is there stays, unless ``replace``.

    Raises:
        ConfigError: something is there, or it cannot be written.
    """
    try:
        if replace:
            fresh.replace(path)
        else:
            os.link(fresh, path)  # never over another file, whoever has put it there meanwhile
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise there_already(path) from error
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error


def there_already(path: Path) -> ConfigError:
    """Return the error that a file is there, which is not written over."""
    return ConfigError("is there already", where=str(path), hint="--force replaces it")
