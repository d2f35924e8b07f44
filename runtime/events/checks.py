"""Whether the rules of a stream can ever be met."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ...models.errors import ConfigError
from ..sources.options import AnySource, AudioSource, VideoSource
from .options import ClipOptions, EventRule


def check_rules(
    rules: Sequence[EventRule],
    labels: Sequence[str],
    where: str,
    *,
    source: AnySource | None = None,
) -> None:
    """Check the rules of one stream against the ``labels`` of its bundle, and its ``source``.

    Raises:
        ConfigError: one of them cannot be; ``where`` is followed by its name and its key.
    """
    for rule in rules:
        at = f"{where}: event {rule.name}"
        if sum(one.name == rule.name for one in rules) > 1:
            raise ConfigError("there are two of this name", where=at)
        _check_labels(rule, labels, at)
        if rule.k > rule.n:
            raise ConfigError(f"{rule.k} of the last {rule.n} samples is never", where=f"{at}: k")
        if rule.leave > rule.enter:
            raise ConfigError(
                f"is more than enter ({rule.enter})",
                where=f"{at}: leave",
                hint="an event that has just opened would not hold",
            )
        if rule.clip is not None:
            _check_clip(rule.clip, source, f"{at}: clip")
            _check_shared(rule.clip, rules, f"{at}: clip")


def _check_labels(rule: EventRule, labels: Sequence[str], at: str) -> None:
    for label, times in Counter(rule.labels).items():
        if label not in labels:
            near = difflib.get_close_matches(label, labels, n=3) or list(labels)[:20]
            raise ConfigError(
                f"the bundle has no label {label!r}",
                where=f"{at}: labels",
                hint=f"it has {', '.join(near)}{'' if set(near) == set(labels) else ', …'}",
            )
        if times > 1:
            raise ConfigError(f"names {label!r} {times} times", where=f"{at}: labels")


def _check_clip(clip: ClipOptions, source: AnySource | None, at: str) -> None:
    if clip.max_bytes > clip.keep_bytes:
        raise ConfigError(f"is more than keep_bytes ({clip.keep_bytes})", where=f"{at}.max_bytes")
    if source is not None and not isinstance(source, VideoSource | AudioSource):
        kind = source.__struct_config__.tag
        raise ConfigError(
            f"a source of kind {kind} keeps no clips",
            where=at,
            hint="those of kind video and audio do",
        )


def _check_shared(clip: ClipOptions, rules: Sequence[EventRule], at: str) -> None:
    """Check that the rules of one folder agree how much stays there: else the least wins."""
    for rule in rules:
        other = rule.clip
        if other is None or Path(other.path) != Path(clip.path):
            continue
        for key in ("keep_bytes", "keep_days"):
            if getattr(other, key) != getattr(clip, key):
                raise ConfigError(
                    f"is not that of event {rule.name}, whose clips are in the same folder",
                    where=f"{at}.{key}",
                    hint="give both the same, or one a path of its own, such as clips/long",
                )
