"""Reading a file that a user names: small, or refused."""

from __future__ import annotations

from pathlib import Path

from ...models.errors import ConfigError


def read_small(path: Path, *, max_bytes: int) -> bytes:
    """Return a file's bytes.

    Raises:
        ConfigError: it cannot be read, or is larger.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > max_bytes:
        raise ConfigError(f"is larger than {max_bytes} bytes", where=str(path))
    return data
