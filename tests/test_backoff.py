"""How long to wait before the next attempt to connect."""

from __future__ import annotations

import random

from hedge.uplink.link.backoff import Backoff


def test_a_host_without_its_broker_is_asked_again_within_a_second_however_long_it_was() -> None:
    backoff = Backoff(rng=random.Random(5))  # noqa: S311 -- a pause
    delays = [backoff.next_s(absent=True) for _ in range(50)]
    assert all(0.4 <= delay <= 0.8 for delay in delays[3:])
    assert 5 <= backoff.next_s() <= 10, "a network that is away is another matter"
    assert backoff.next_s(absent=True) <= 0.8


def test_no_cap_is_longer_than_what_was_asked_for() -> None:
    backoff = Backoff(first_s=0.01, cap_s=0.05)
    assert all(backoff.next_s(absent=True) <= 0.05 for _ in range(9))
