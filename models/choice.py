"""Which variant of a bundle runs here: what `hedge bundle pin` wrote, else the first."""

from __future__ import annotations

from .errors import BundleError
from .manifest import Edge, Manifest


def chosen(manifest: Manifest, *, board: str | None, power_mode: str | None = None) -> Edge:
    """Return the variant that the manifest's choices name for a board in a power mode.

    That is the choice for just this mode, else that for all modes of the board, else the
    first variant: of a board that is not known (None) nothing was measured.

    Raises:
        BundleError: the manifest has no edge model.
    """
    if not manifest.edge:
        raise BundleError("has no edge model", where=manifest.name)
    names = {
        choice.power_mode: choice.variant for choice in manifest.choice if choice.board == board
    }
    name = names.get(power_mode, names.get(None))
    return next((edge for edge in manifest.edge if edge.name == name), manifest.edge[0])
