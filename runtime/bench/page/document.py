"""An HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

from collections.abc import Iterable

from .style import style
from .svg import text_of

_MOST = 1000
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_INLINE_IMAGES = "; img-src data:"


def document(
    title: str, body: Iterable[str], *, extra_style: str = "", images: bool = False
) -> str:
    """Return a page; ``title`` is escaped, ``body`` is HTML. ``images`` lets inline ones show."""
    policy = _POLICY + (_INLINE_IMAGES if images else "")
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text_of(title, most=_MOST)}</title><style>{style()}{extra_style}</style>"
    )
    inner = "\n".join(body)
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><main>\n{inner}\n</main></body></html>\n"
    )
