"""A bundle's models, tried as the daemon will run them."""

from __future__ import annotations

from ...models.bundle import Bundle
from ...models.manifest import Cloud, Edge, Filter
from ...models.prepare import fed_dtype
from ..backends.options import BackendOptions
from .messages import Probed
from .probe import Fed, probe_model

Part = Edge | Filter | Cloud


def probe_part(bundle: Bundle, part: Part, *, options: BackendOptions | None = None) -> Probed:
    """Try one of a bundle's models in a process of its own; see `probe_model`.

    Raises:
        ModelError, ConfigError, BundleError: it does not run, and why.
    """
    return probe_model(
        bundle.read(part.file),
        format=part.format,
        where=f"{bundle.path}/{part.file}",
        options=options,
        output=None if isinstance(part, Filter) else part.output_name,
        sample=_sample(bundle, part),
    )


def _sample(bundle: Bundle, part: Part) -> Fed:
    """Return what the model is fed: a sample, or features of one."""
    takes = bundle.input if isinstance(part, Cloud) else bundle.manifest.taken_by(part)
    return Fed(takes.shape, fed_dtype(takes).name)
