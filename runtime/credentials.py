"""Secrets that systemd hands to a service (LoadCredential=, systemd.exec(5))."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

DIRECTORY = "CREDENTIALS_DIRECTORY"


def secret_path(name: str, *, base: Path, environ: Mapping[str, str]) -> Path:
    """Return where a secret lies that a configuration names by its file.

    What systemd has handed to this service under the file's bare name comes first; else it
    is the file itself, from ``base``. So one configuration serves by hand and as a service.
    """
    folder = environ.get(DIRECTORY)
    handed = None if not folder else Path(folder) / Path(name).name
    return handed if handed is not None and handed.is_file() else base / name
