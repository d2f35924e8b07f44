"""The bundles that come with hedge, by name."""

from __future__ import annotations

from pathlib import Path

_ZOO = Path(__file__).parents[1] / "models" / "zoo"


def bundle_path(name: str, *, base: Path = Path()) -> Path:
    """Return the bundle that ``name`` means: a path from ``base``, else a shipped bundle."""
    path = base / name
    shipped = _ZOO / name
    return shipped if not path.exists() and (shipped / "manifest.toml").is_file() else path
