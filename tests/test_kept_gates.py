"""What the gates have learnt, kept over restarts: when it is written, and what is believed."""

from __future__ import annotations

import functools
import json
import logging
import os
import random
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedge.models.errors import DataError
from hedge.models.manifest import Calibration, Promise
from hedge.runtime.config import load_config
from hedge.runtime.gate.audit import Said
from hedge.runtime.gate.gate import Gate
from hedge.runtime.gate.kept_gates import KeptGates
from hedge.runtime.gate.memory import GateMemory
from hedge.runtime.gate.options import AuditOptions, GateOptions
from hedge.runtime.shipped import bundle_path
from hedge.runtime.streams import Served, Streams
from hedge.telemetry.boards.detect import detect

SEED = 20271
MINUTE_NS = 60 * 10**9
CALIBRATION = Calibration(
    score="max_prob",
    total=0.9,
    promise=Promise(accuracy=0.9, confidence=0.95, by="row", coverage=0.9, rows=500),
    reference=tuple(number / 20 for number in range(1, 20)),
    method="test",
    rows=2000,
    data_sha256="0" * 64,
)


class Clock:
    """Stands until it is set."""

    now_ns = 10**9

    def __call__(self) -> int:
        return self.now_ns


def _gate(kept: KeptGates, *, of: str = "one", name: str = "cam") -> Gate:
    return Gate(
        CALIBRATION,
        stream=name,
        options=GateOptions(),
        audit=AuditOptions(share=1.0),
        keep=functools.partial(kept.keep, name, of),
        clock=lambda: 0,
        rng=random.Random(SEED),  # noqa: S311 -- no secret
    )


def _tell(gate: Gate, *, score: float, wrong: bool) -> None:
    said = Said(score, int(wrong), accepted=score < gate.policy.total)
    gate.learn(said, truth=0)


def _learn(gate: Gate, rows: int, *, error: float, seed: int = SEED) -> None:
    """Let it learn of uniform scores, of which the share ``error`` times the score is wrong."""
    for score, coin in np.random.default_rng(seed).random((rows, 2)):
        _tell(gate, score=float(score), wrong=bool(coin < error * score))


def _found(kept: KeptGates) -> GateMemory:
    found = kept.find("cam", of="one")
    assert found is not None
    return found


def test_a_gate_that_was_tightened_stands_there_again_and_goes_on_just_as_it_would_have(
    tmp_path: Path,
) -> None:
    kept = KeptGates(tmp_path / "gates.json")
    gate = _gate(kept)
    _learn(gate, 700, error=0.6)
    assert gate.policy.total < 0.9
    kept.write()
    again = _gate(KeptGates(tmp_path / "else.json"))
    again.resume(_found(KeptGates(tmp_path / "gates.json")))
    assert again.policy.total == gate.policy.total
    assert again.memory() == gate.memory()
    for one in (gate, again):
        _learn(one, 3000, error=0.12, seed=SEED + 1)
    assert again.memory() == gate.memory()
    assert again.policy.total == gate.policy.total == 0.9, "the promise holds again"
    assert (tmp_path / "gates.json").stat().st_mode & 0o777 == 0o600
    state = again.state()
    assert state.audit is not None
    assert state.audit.judged == 3000, "counters begin anew with each run"


def test_a_move_is_written_at_once_and_all_else_seldom(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "gates.json"
    kept = KeptGates(file, clock=clock)
    gate = _gate(kept)
    _learn(gate, 500, error=0.0)
    assert not file.exists(), "it is not a minute yet"
    clock.now_ns += MINUTE_NS
    _tell(gate, score=0.1, wrong=False)
    assert _found(KeptGates(file)).rows == gate.audit.counted()[0] > 400
    before = file.read_bytes()
    clock.now_ns += MINUTE_NS
    _learn(gate, 63, error=0.0)
    assert file.read_bytes() == before, "these are few"
    kept.write()
    assert file.read_bytes() != before
    while gate.policy.total == 0.9:
        _tell(gate, score=0.8, wrong=True)
    keeper = _found(KeptGates(file)).keeper
    assert keeper is not None
    assert keeper == gate.memory().keeper
    assert keeper.at < 18


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "noise": lambda data: random.Random(SEED).randbytes(len(data)),  # noqa: S311 -- no secret
    "newer": lambda data: data.replace(b'"v":1', b'"v":2', 1),
    "foreign": lambda _: b'{"streams": ["cam"]}',
    "negative": lambda data: data.replace(b'"rows":', b'"rows":-', 1),
    "deep": lambda _: b'{"v":1,"streams":' + b"[" * 500_000,
    "vast": lambda data: data + b" " * (1 << 20),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_file_that_is_no_good_is_a_fresh_start_with_one_warning(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "gates.json"
    kept = KeptGates(file)
    _learn(_gate(kept), 300, error=0.6)
    file.write_bytes(SPOILT[how](file.read_bytes()))
    again = KeptGates(file)
    assert again.find("cam", of="one") is None
    assert again.counters() == {"gate_memories_refused": 1}
    assert len([one for one in caplog.records if str(file) in one.message]) == 1
    _learn(_gate(again), 300, error=0.6)
    assert _found(KeptGates(file)).keeper is not None, "it is written anew"


def test_what_another_bundle_has_learnt_is_not_believed(tmp_path: Path) -> None:
    kept = KeptGates(tmp_path / "gates.json")
    _learn(_gate(kept), 300, error=0.6)
    assert kept.find("cam", of="another") is None
    assert kept.find("door", of="one") is None
    assert kept.counters() == {"gate_memories_refused": 1}, "of the second nothing was kept"


def test_a_memory_that_does_not_fit_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    kept = KeptGates(tmp_path / "gates.json")
    gate = _gate(kept)
    _learn(gate, 300, error=0.6)
    memory = gate.memory()
    assert memory.keeper is not None
    change = msgspec.structs.replace
    for keeper in (
        None,
        change(memory.keeper, rows=(1, 2)),
        change(memory.keeper, at=18),
        change(memory.keeper, holds=((1.0,),)),
        change(memory.keeper, holds=((1.0,), (1.0, 2.0))),
        change(memory.keeper, fails=tuple((-1.0,) * 5 for _ in memory.keeper.fails)),
    ):
        fresh = _gate(kept)
        before = fresh.memory()
        with pytest.raises(DataError):
            fresh.resume(change(memory, keeper=keeper))
        assert fresh.memory() == before
        assert fresh.policy.total == 0.9


def test_no_more_streams_are_kept_than_a_bound_and_the_last_heard_of_stay(tmp_path: Path) -> None:
    file = tmp_path / "gates.json"
    kept = KeptGates(file)
    for number in range(70):
        gate = _gate(kept, name=f"cam{number}")
        _tell(gate, score=0.3, wrong=True)
    _tell(_gate(kept, name="cam0"), score=0.4, wrong=False)
    kept.write()
    again = KeptGates(file)
    known = [number for number in range(70) if again.find(f"cam{number}", of="one") is not None]
    assert known == [0, *range(7, 70)]


def test_a_disk_that_takes_nothing_is_counted_told_rarely_and_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    place = tmp_path / "state"
    place.write_bytes(b"no folder")
    kept = KeptGates(place / "gates.json")
    gate = _gate(kept)
    for _ in range(5):
        _tell(gate, score=0.3, wrong=False)
        kept.write()
    refused = kept.counters().pop("gate_memories_unwritten")
    assert refused == 5
    told = [one for one in caplog.records if "cannot be written" in one.message]
    assert len(told) == 3, "the 1st, 2nd and 4th"
    place.unlink()
    _tell(gate, score=0.3, wrong=False)
    kept.write()
    assert _found(KeptGates(place / "gates.json")).rows == 6


def test_what_is_learnt_while_a_stream_is_opened_anew_is_not_lost(tmp_path: Path) -> None:
    shutil.copy(bundle_path("digits").with_name("digits-unseen.npz"), tmp_path / "rows.npz")
    file = tmp_path / "device.toml"
    streams = Streams(
        detect(), state=tmp_path, base=tmp_path, systemd=lambda _: None, bell=threading.Event()
    )

    def opened(filters: str) -> dict[str, Served]:
        file.write_text(_DEVICE.format(filters=filters))
        return streams.open_all(load_config(file, environ={}))

    try:
        streams.serve(opened("true"))
        old = _gate_of(streams.served)
        old.audit.asked()
        _tell(old, score=0.01, wrong=True)
        new = opened("false")  # in the thread of the reload, for minutes perhaps
        _tell(old, score=0.02, wrong=False)
        streams.serve(new)
        assert _gate_of(new) is not old
        state = _gate_of(new).state().audit
        assert state is not None
        assert (state.asked, state.judged, state.rows, state.wrong) == (1, 2, 2, 1)
        _tell(_gate_of(new), score=0.03, wrong=False)
        streams.keep()
    finally:
        streams.close()
    ((name, kept),) = json.loads((tmp_path / "gates.json").read_text())["streams"].items()
    assert (name, kept["memory"]["rows"], kept["memory"]["wrong"]) == ("cam", 3, 1)


_DEVICE = """
[device]
name = "d"
[uplink]
broker = "mqtt://127.0.0.1:1"
[[stream]]
name = "cam"
bundle = "digits"
filter = {filters}
source = {{ kind = "replay", path = "rows.npz" }}
"""


def _gate_of(served: Mapping[str, Served]) -> Gate:
    gate = served["cam"].lane.gate
    assert gate is not None
    return gate


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gates.json")
    assert KeptGates(tmp_path / "gates.json").counters() == {"gate_memories_refused": 1}
