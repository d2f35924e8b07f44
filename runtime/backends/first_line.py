"""What a library's error says, in one line."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """Return the first line of ``error``; the name of its kind if it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
