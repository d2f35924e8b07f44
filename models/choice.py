"""Which variant of a bundle runs here: what `hedge bundle pin` wrote, else the first."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import BundleError
from .manifest import Edge, Manifest


def chosen(manifest: Manifest, *, boards: Sequence[str], power_mode: str | None = None) -> Edge:
    """Return the variant that the manifest's choices name for a board in a power mode.

    ``boards`` are the names it goes by, the closest first: its module's, its profile's. For
    each the choice for just this mode goes before that for all modes; the first variant runs
    where nothing was chosen.

    Raises:
        BundleError: the manifest has no edge model.
    """
    if not manifest.edge:
        raise BundleError("has no edge model", where=manifest.name)
    named = {(choice.board, choice.power_mode): choice.variant for choice in manifest.choice}
    keys = ((board, mode) for board in boards for mode in (power_mode, None))
    name = next((named[key] for key in keys if key in named), None)
    return next((edge for edge in manifest.edge if edge.name == name), manifest.edge[0])
