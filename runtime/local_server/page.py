"""A page, and who makes it."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import TypeAlias

from msgspec import Struct

from ...telemetry.exporters import exposition


class Page(Struct, frozen=True):
    """What is answered: a status, a text, and what kind of text it is."""

    text: str
    status: HTTPStatus = HTTPStatus.OK
    kind: str = exposition.CONTENT_TYPE


Answer: TypeAlias = Callable[[str], Page]
"""Returns the page of a path, which has no query; called from several threads."""
