"""The sound cards of this machine that can record, by ALSA's own list."""

from __future__ import annotations

import re

from msgspec import Struct

from ...telemetry.boards.tree import Tree

_CARD = re.compile(r"^ *(\d+) \[(\S+) *\]: (?:.*? - )?(.*)$", re.MULTILINE)
_PCM = re.compile(r"^(\d+)-(\d+): (.*?) *:.* : capture \d+ *$", re.MULTILINE)


class SoundCard(Struct, frozen=True, kw_only=True):
    """Something that records: ``device`` is ALSA's name for it.

    It is called by the card's own name, which stays when others are plugged in, and by way of
    the plug that makes what is asked for of what the card can.
    """

    name: str
    device: str


def find_sound_cards(tree: Tree) -> tuple[SoundCard, ...]:
    """Return every recording device of every card, in ALSA's order."""
    cards = {
        int(number): (own, name.strip())
        for number, own, name in _CARD.findall(tree.raw("proc/asound/cards") or "")
    }
    found: list[SoundCard] = []
    for number, device, name in _PCM.findall(tree.raw("proc/asound/pcm") or ""):
        own, title = cards.get(int(number), (number, ""))
        text = f"{title}: {name}" if title and title != name else name
        found.append(SoundCard(name=text, device=f"plughw:CARD={own},DEV={int(device)}"))
    return tuple(found)
