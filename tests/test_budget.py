"""What may be sent per minute, hour and day."""

from __future__ import annotations

import logging
import stat
from fractions import Fraction
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.uplink.link.budget import Budget, BudgetFile, Limits, wire_bytes

S_NS = 1_000_000_000
MINUTE_NS, HOUR_NS, DAY_NS = 60 * S_NS, 3600 * S_NS, 86_400 * S_NS


class Times:
    """Both clocks of a device, set by hand."""

    def __init__(self, *, boot_ns: int = 1000 * S_NS, wall_ns: int | None = DAY_NS) -> None:
        self.boot_ns = boot_ns
        self.wall_ns = wall_ns
        self.boot = "boot-1"

    def pass_s(self, seconds: float) -> int:
        """Let time pass, and return what it is then."""
        self.boot_ns += int(seconds * S_NS)
        if self.wall_ns is not None:
            self.wall_ns += int(seconds * S_NS)
        return self.boot_ns

    def reboot(self, *, off_s: float, up_s: float = 10.0) -> None:
        """Be off for a while, and come up."""
        self.pass_s(off_s + up_s)
        self.boot, self.boot_ns = "boot-2", int(up_s * S_NS)

    def budget(self, limits: Limits, state: bytes | None = None) -> Budget:
        """Return a budget on these clocks."""
        return Budget(
            limits,
            state=state,
            clock=lambda: self.boot_ns,
            boot=self.boot,
            wall=lambda: self.wall_ns,
        )


def fresh(limits: Limits) -> Budget:
    """Return a full budget that began at time 0."""
    return Times(boot_ns=0).budget(limits)


def test_without_limits_everything_may_go() -> None:
    budget = fresh(Limits())
    budget.spend(1 << 40, 0)
    assert budget.allows(1 << 40, 0)
    assert budget.next_ns(1 << 40, 5) == 5
    assert budget.left(0) == {}


@pytest.mark.parametrize(
    ("period", "length_ns"), [("minute", MINUTE_NS), ("hour", HOUR_NS), ("day", DAY_NS)]
)
def test_messages_go_until_the_bucket_is_empty_and_then_at_its_rate(
    period: str, length_ns: int
) -> None:
    budget = fresh(Limits(**{f"messages_per_{period}": 4}))
    for _ in range(4):
        assert budget.allows(10**9, 0)
        budget.spend(10**9, 0)
    assert not budget.allows(1, 0)
    assert budget.next_ns(1, 0) == length_ns // 4
    assert not budget.allows(1, length_ns // 4 - 1)
    assert budget.allows(1, length_ns // 4)


def test_a_wait_that_is_no_whole_number_of_nanoseconds_ends_after_it_and_not_before() -> None:
    budget = fresh(Limits(messages_per_minute=7))
    budget.spend(1, 0, messages=7)
    assert budget.next_ns(1, 0) == 8_571_428_572  # of 60/7 s, 8,571,428,571.43 ns
    assert not budget.allows(1, 8_571_428_571)


def test_a_limit_in_bytes_counts_bytes_and_one_in_messages_counts_messages() -> None:
    budget = fresh(Limits(bytes_per_minute=600, messages_per_hour=100))
    budget.spend(150, 0, messages=3)
    assert budget.left(0) == {"messages_per_hour": 97, "bytes_per_minute": 450}
    assert budget.next_ns(451, 0) == S_NS // 10
    assert budget.allows(450, 0)


def test_the_scarcest_limit_decides() -> None:
    budget = fresh(Limits(messages_per_minute=60, bytes_per_day=86_400))
    budget.spend(86_400, 0)
    assert budget.next_ns(10, 0) == 10 * S_NS  # a byte a second
    budget.spend(0, 0, messages=59)
    assert budget.next_ns(10, 0) == 10 * S_NS
    budget.spend(0, 0, messages=19)  # 79 of 60, and one more is to go, at one a second
    assert budget.next_ns(10, 0) == 20 * S_NS


def test_a_message_larger_than_its_bucket_goes_when_that_is_full_and_leaves_a_debt() -> None:
    budget = fresh(Limits(bytes_per_minute=600))
    assert budget.allows(1800, 0)
    budget.spend(1800, 0)
    assert budget.left(0) == {"bytes_per_minute": -1200}
    assert budget.next_ns(10, 0) == 121 * S_NS
    assert budget.next_ns(1800, 0) == 180 * S_NS
    assert not budget.allows(1800, 180 * S_NS - 1)
    assert budget.allows(1800, 180 * S_NS)


def test_a_clock_that_stands_still_or_steps_back_gives_nothing() -> None:
    budget = fresh(Limits(messages_per_minute=1))
    budget.spend(1, 100 * S_NS)
    assert not budget.allows(1, 90 * S_NS)
    assert not budget.allows(1, 160 * S_NS - 1)
    assert budget.allows(1, 160 * S_NS)


@pytest.mark.parametrize("limit", [0, -5])
def test_a_limit_below_one_is_refused_by_its_key(limit: int) -> None:
    with pytest.raises(ConfigError, match=r"uplink\.budget\.bytes_per_day"):
        Budget(Limits(bytes_per_day=limit))


SENDINGS = st.lists(
    st.tuples(st.integers(0, 40 * S_NS), st.integers(1, 120)), min_size=1, max_size=40
)


@given(sendings=SENDINGS, messages=st.integers(1, 10), size=st.integers(100, 500))
def test_no_window_of_time_holds_more_than_the_limit_and_what_flows_in_meanwhile(
    sendings: list[tuple[int, int]], messages: int, size: int
) -> None:
    budget = fresh(Limits(messages_per_minute=messages, bytes_per_minute=size))
    now_ns, sent = 0, []
    for gap_ns, size_bytes in sendings:
        now_ns += gap_ns
        if size_bytes <= size and budget.allows(size_bytes, now_ns):
            budget.spend(size_bytes, now_ns)
            sent.append((now_ns, size_bytes))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            window = Fraction(sent[last][0] - sent[first][0], MINUTE_NS)
            assert last - first + 1 <= messages * (1 + window)
            assert sum(one for _, one in sent[first : last + 1]) <= size * (1 + window)


@given(sendings=SENDINGS, size=st.integers(50, 300))
def test_a_leaky_bucket_simulated_in_fractions_says_the_same(
    sendings: list[tuple[int, int]], size: int
) -> None:
    budget = fresh(Limits(bytes_per_minute=size))
    level, then_ns, now_ns = Fraction(0), 0, 0  # filled by what is sent, drained by time
    for gap_ns, size_bytes in sendings:
        now_ns += gap_ns
        level = max(Fraction(0), level - Fraction(size * (now_ns - then_ns), MINUTE_NS))
        then_ns = now_ns
        fits = level + size_bytes <= size or level == 0
        assert budget.allows(size_bytes, now_ns) == fits
        if fits:
            budget.spend(size_bytes, now_ns)
            level += size_bytes
        assert budget.left(now_ns) == {"bytes_per_minute": size - -(-level // 1)}


@given(
    sendings=SENDINGS,
    limits=st.builds(
        Limits,
        messages_per_minute=st.none() | st.integers(1, 9),
        bytes_per_hour=st.none() | st.integers(1, 900),
        bytes_per_day=st.none() | st.integers(1, 9000),
    ),
    size_bytes=st.integers(1, 2000),
)
def test_next_is_the_first_moment_that_is_allowed(
    sendings: list[tuple[int, int]], limits: Limits, size_bytes: int
) -> None:
    budget, now_ns = fresh(limits), 0
    for gap_ns, spent in sendings:
        now_ns += gap_ns
        budget.spend(spent, now_ns)
    at_ns = budget.next_ns(size_bytes, now_ns)
    assert at_ns >= now_ns
    assert budget.allows(size_bytes, now_ns) == (at_ns == now_ns)
    if at_ns > now_ns:
        assert not budget.allows(size_bytes, at_ns - 1)
    assert budget.allows(size_bytes, at_ns)


def test_a_restart_gives_nothing_away() -> None:
    times = Times()
    limits = Limits(messages_per_minute=60, bytes_per_day=86_400)
    budget = times.budget(limits)
    budget.spend(1000, times.boot_ns, messages=30)
    state = budget.state(times.boot_ns)
    times.pass_s(10)
    again = times.budget(limits, state)
    assert again.left(times.boot_ns) == {"messages_per_minute": 40, "bytes_per_day": 85_410}
    assert again.left(times.boot_ns) == budget.left(times.boot_ns)


def test_a_device_that_restarts_for_ever_keeps_to_its_budget() -> None:
    times, limits, state, sent = Times(), Limits(bytes_per_day=8640), None, 0
    for _ in range(500):
        budget = times.budget(limits, state)
        while budget.allows(100, times.boot_ns):
            budget.spend(100, times.boot_ns)
            sent += 100
        state = budget.state(times.boot_ns)
        times.pass_s(20)
    assert 8640 + 900 <= sent <= 8640 + 1000  # 10,000 s at a tenth of a byte a second


def test_over_a_reboot_the_wall_clock_counts_if_it_is_true() -> None:
    times, limits = Times(), Limits(bytes_per_day=86_400)
    budget = times.budget(limits)
    budget.spend(80_000, times.boot_ns)
    state = budget.state(times.boot_ns)
    times.reboot(off_s=590)
    assert times.budget(limits, state).left(times.boot_ns) == {"bytes_per_day": 7000}


@pytest.mark.parametrize("when", ["before", "after"])
def test_over_a_reboot_without_a_true_clock_only_this_boot_counts(when: str) -> None:
    times, limits = Times(), Limits(bytes_per_day=86_400)
    true_ns, times.wall_ns = times.wall_ns, None if when == "before" else times.wall_ns
    budget = times.budget(limits)
    budget.spend(80_000, times.boot_ns)
    state = budget.state(times.boot_ns)
    times.reboot(off_s=590, up_s=100)
    times.wall_ns = true_ns if when == "before" else None
    assert times.budget(limits, state).left(times.boot_ns) == {"bytes_per_day": 6500}


def test_a_wall_clock_that_was_set_back_takes_nothing() -> None:
    times, limits = Times(), Limits(bytes_per_day=86_400)
    budget = times.budget(limits)
    budget.spend(80_000, times.boot_ns)
    state = budget.state(times.boot_ns)
    times.reboot(off_s=0, up_s=0)
    times.wall_ns = 0
    assert times.budget(limits, state).left(times.boot_ns) == {"bytes_per_day": 6400}


def test_a_debt_is_kept_but_a_changed_limit_is_at_most_empty() -> None:
    times = Times()
    budget = times.budget(Limits(bytes_per_day=1000, bytes_per_hour=500))
    budget.spend(5000, times.boot_ns)
    state = budget.state(times.boot_ns)
    again = times.budget(Limits(bytes_per_day=2000, bytes_per_hour=500, messages_per_day=3), state)
    left = {"messages_per_day": 3, "bytes_per_hour": -4500, "bytes_per_day": 0}
    assert again.left(times.boot_ns) == left


def test_damaged_state_begins_unspent_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times, limits = Times(), Limits(bytes_per_day=1000)
    budget = times.budget(limits)
    budget.spend(900, times.boot_ns)
    state = budget.state(times.boot_ns)
    flipped = [bytes([*state[:at], state[at] ^ 4, *state[at + 1 :]]) for at in range(len(state))]
    for damaged in (b"", state[:-1], state + b"\0", b"\0" * 5000, *flipped):
        caplog.clear()
        found = times.budget(limits, damaged)
        assert found.left(times.boot_ns) == {"bytes_per_day": 1000}
        assert caplog.text.count("damaged") == 1


@given(st.binary(max_size=80))
def test_any_bytes_at_all_are_no_reason_not_to_start(state: bytes) -> None:
    assert Times().budget(Limits(bytes_per_day=5), state).left(0) == {"bytes_per_day": 5}


def test_the_file_is_for_its_owner_only_and_survives_a_restart(tmp_path: Path) -> None:
    times, limits = Times(), Limits(bytes_per_day=1000)
    path = tmp_path / "state" / "budget"
    file = BudgetFile(path)
    budget = times.budget(limits, file.read())
    budget.spend(100, times.boot_ns)
    file.close(budget, times.boot_ns)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    again = times.budget(limits, BudgetFile(path).read())
    assert again.left(times.boot_ns) == {"bytes_per_day": 900}


def test_the_file_is_written_at_once_then_after_a_while_or_when_much_was_spent(
    tmp_path: Path,
) -> None:
    times, limits = Times(), Limits(bytes_per_day=16_000)
    path = tmp_path / "budget"
    file, budget = BudgetFile(path, every_s=5), times.budget(limits)

    def kept() -> int:
        return times.budget(limits, path.read_bytes()).left(times.boot_ns)["bytes_per_day"]

    file.keep(budget, times.boot_ns)
    assert not path.exists()  # nothing is spent
    budget.spend(10, times.boot_ns)
    file.keep(budget, times.boot_ns)
    assert kept() == 15_990
    budget.spend(10, times.boot_ns)
    file.keep(budget, times.boot_ns)
    assert kept() == 15_990
    file.keep(budget, times.pass_s(5))
    assert kept() == 15_980
    budget.spend(1000, times.boot_ns)
    file.keep(budget, times.boot_ns)
    assert kept() == 14_980
    budget.spend(990, times.boot_ns)
    file.keep(budget, times.boot_ns)
    assert kept() == 14_980


def test_a_disk_that_fails_is_named_once_and_sending_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    times, limits = Times(), Limits(bytes_per_day=1000)
    (tmp_path / "in the way").write_bytes(b"")
    file = BudgetFile(tmp_path / "in the way" / "budget")
    budget = times.budget(limits, file.read())
    for _ in range(3):
        budget.spend(100, times.boot_ns)
        file.keep(budget, times.pass_s(6))
    file.close(budget, times.boot_ns)
    told = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage().count("cannot be kept") for one in told] == [0, 1]
    assert budget.left(times.boot_ns) == {"bytes_per_day": 700}


def test_a_first_start_says_that_the_budget_is_new(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert BudgetFile(tmp_path / "budget").read() is None
    assert caplog.text.count("begins unspent") == 1


def test_a_file_left_half_written_by_a_kill_is_not_in_the_way(tmp_path: Path) -> None:
    times, limits = Times(), Limits(bytes_per_day=1000)
    (tmp_path / "budget.new").write_bytes(b"half")
    (tmp_path / "budget").symlink_to("/nowhere")
    file, budget = BudgetFile(tmp_path / "budget"), times.budget(limits)
    budget.spend(100, times.boot_ns)
    file.close(budget, times.boot_ns)
    state = BudgetFile(tmp_path / "budget").read()
    assert times.budget(limits, state).left(times.boot_ns) == {"bytes_per_day": 900}


def test_the_state_is_small() -> None:
    everything = Limits(**dict.fromkeys(Limits.__struct_fields__, 1 << 50))
    budget = fresh(everything)
    budget.spend(1 << 52, 0, messages=1 << 52)
    state = budget.state(0)
    assert len(state) < 512
    assert min(Times(boot_ns=0).budget(everything, state).left(0).values()) < 0


@pytest.mark.parametrize(
    ("payload", "tls", "counted"),
    [
        # topic 30: stream = 2 + 2 + 30 + 2 + payload; each way's packets at 72 bytes
        (1000, False, 1 + 2 + 34 + 1000 + 4 + (1 + 1 + 2) * 72),
        (1000, True, 1 + 2 + 34 + 1000 + 22 + 4 + 22 + (1 + 1 + 2) * 72),
        (10, True, 1 + 1 + 34 + 10 + 22 + 4 + 22 + (1 + 1 + 2) * 72),
        (100_000, True, 1 + 3 + 34 + 100_000 + 7 * 22 + 4 + 22 + (74 + 37 + 2) * 72),
    ],
)
def test_a_metered_link_sees_more_than_the_payload(
    payload: int, *, tls: bool, counted: int
) -> None:
    assert wire_bytes("t" * 30, payload, tls=tls) == counted


def test_limits_are_read_from_a_configuration_and_unknown_ones_refused() -> None:
    assert msgspec.convert({"bytes_per_day": 5}, Limits) == Limits(bytes_per_day=5)
    with pytest.raises(msgspec.ValidationError, match="bytes_per_week"):
        msgspec.convert({"bytes_per_week": 5}, Limits)
