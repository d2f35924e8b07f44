"""The faults: each is one cycle in the life of a device, its broker, its worker and its link."""

from __future__ import annotations

import ctypes
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import msgspec

from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window

from ..mounts import make_ext4, unmount
from ..running import STRUCK
from ..truth import Truth
from ..witness import IDLE, PHASES, STARTING, Life, Shared, Witness
from . import samples, wall
from .device import OUTBOX, OUTCOMES, REPORT, RUNNING, config, live
from .far_end import Broker, FarEnd, mosquitto
from .network import Network
from .outcomes import Outcomes

Kind = Literal["kill", "broker", "worker", "cut", "clock"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_ANEW = {"kill": 250}  # cycles after which a device begins with an empty disk
_ANEW_ELSE = 20
_DISK_BYTES = 48 << 20
_SMALL_PACKET_BYTES = 1024
_PATIENCE_S = 30.0
_HOUR_S = 3600
_LEASE_S = 0.5  # shorter than usual, so that what is sent again is sent within a cycle
_BUSY_S = {"worker": 0.01, "clock": 0.02}  # how long a worker has a batch in its hands


class Bench:
    """Where cycles of one kind run: a disk, a broker, a worker and one device after another."""

    def __init__(self, kind: Kind, folder: Path, *, seed: int) -> None:
        self._kind = kind
        self._seed = seed
        self._truth = Truth(body_of=samples.body_of, waits=lambda _: True)
        self._place = folder / kind
        self._place.mkdir(parents=True)
        self._image = folder / f"{kind}.img"
        self._scratch = folder / f"{kind}-far-end"
        self._scratch.mkdir()
        self._shared = Shared()
        self._outcomes = self._fresh_outcomes()
        self._network: Network | None = None
        self._shift: ctypes.c_int64 | None = None
        self._broker: Broker | None = None
        self._life: Life | None = None
        self._workers: list[FarEnd] = []
        self._made = 0

    @property
    def counts(self) -> Counter[str]:
        """Return what was seen."""
        return self._truth.counts

    @property
    def faults(self) -> list[str]:
        """Return what must not be."""
        return self._truth.faults

    def missing(self) -> str | None:
        """Prepare the place; return what this machine lacks for the kind."""
        if mosquitto() is None:
            return "mosquitto is not installed"
        host = "127.0.0.1"
        if self._kind == "clock":
            self._shift = wall.shift()
            if self._shift is None:
                return "no C compiler, which the clock that can be stepped needs"
        if self._kind == "cut":
            self._network = Network()
            why = self._network.open()
            if why is not None:
                return why
            host = self._network.host
        make_ext4(self._image, self._place, size_bytes=_DISK_BYTES)
        self._bundle, self._data, self._contract = samples.make(self._scratch)
        self._broker = Broker(self._scratch, host=host)
        self._broker.start()
        self._employ()
        return None

    def close(self) -> None:
        """Leave nothing behind."""
        if self._life is not None:
            self._life.send(signal.SIGKILL)
        self._dismiss()
        if self._broker is not None:
            self._broker.kill()
        if self._network is not None:
            self._network.close()
        unmount(self._place)

    def cycle(self, number: int) -> None:
        """Live through one cycle, and check what is left."""
        rng = random.Random(f"{self._seed}/{self._kind}/{number}")  # noqa: S311 -- choices, not secrets
        if number % _ANEW.get(self._kind, _ANEW_ELSE) == 0:
            if number:
                self.finish()
            shutil.rmtree(self._base, ignore_errors=True)
            self._base.mkdir()
            self._truth.forget()
            self._outcomes = self._fresh_outcomes()
        self._truth.evidence.clear()
        {
            "kill": self._kill,
            "broker": self._lose_broker,
            "worker": self._lose_worker,
            "cut": self._cut,
            "clock": self._clock,
        }[self._kind](rng)
        self._truth.refused.clear()

    def finish(self) -> None:
        """Let a device live without faults: all that is owed goes, and a new ask passes."""
        life = self._begin(rate_hz=0.2, answer_within_ms=60_000)
        self._await(life, self._is_done, "the outbox does not drain")
        self._end(life, peacefully=True)
        left = len(self._truth.asks)
        if left:
            self.faults.append(f"{left} asks left, though all was answered")
        self.counts["drained"] += 1

    @property
    def _base(self) -> Path:
        return self._place / "device"

    def _kill(self, rng: random.Random) -> None:
        life = self._begin(rate_hz=None, window=12, answer_within_ms=2000)
        if rng.random() < 0.9:
            self._await(life, self._is_running, "it does not start")
        time.sleep(rng.random() * 0.06)
        if rng.random() < 0.3:
            self._catch()
        self._struck(not life.ended)
        self._end(life, peacefully=False)
        self.counts[f"in {PHASES[self._shared.phase]}"] += 1
        self.counts["ended before it was open"] += "u" not in life.words

    def _catch(self) -> None:
        """Wait for a moment in which the device is putting, committing or sending."""
        until_s = time.monotonic() + 0.02
        while self._shared.phase in {STARTING, IDLE} and time.monotonic() < until_s:
            pass

    def _lose_broker(self, rng: random.Random) -> None:
        """Kill the broker, let it be away for a while, and start it again."""
        assert self._broker is not None
        life = self._begin(rate_hz=50, in_parts=rng.random() < 0.5)
        self._await_answer(life)
        self._pause(life, rng.random() * 0.05)
        self._broker.kill()
        self._struck(not life.ended)
        self._pause(life, rng.random() * 0.3)
        persistent = self._made % 2 == 0
        self.counts["broker with persistence"] += persistent
        self._broker.start(persistent=persistent)
        self._await_answer(life)
        self._end(life, peacefully=rng.random() < 0.5)
        self._employ()  # one whose connection has not failed for a while

    def _lose_worker(self, rng: random.Random) -> None:
        """Kill one of one or two workers while it has asks in its hands."""
        if rng.random() < 0.5:
            self._employ(more=True)
        life = self._begin(rate_hz=50, in_parts=rng.random() < 0.5)
        self._await_answer(life)
        victim = self._workers[-1]
        self._await(life, lambda: victim.answering, "the worker gets no asks")
        victim.life.end()
        self._struck(victim.answering)
        self._workers.remove(victim)
        self._pause(life, rng.random() * 0.3)
        if not self._workers:
            self._employ()
        self._await_answer(life)
        self._end(life, peacefully=rng.random() < 0.5)

    def _cut(self, rng: random.Random) -> None:
        """Let the network swallow all packets for a while, which nobody is told of."""
        assert self._network is not None
        life = self._begin(rate_hz=50, keepalive_s=rng.choice((1, 20)), in_parts=rng.random() < 0.5)
        self._await_answer(life)
        self._network.cut()
        self._pause(life, 0.02 * 125 ** rng.random())  # up to 2.5 s
        self._struck(self._network.heal() > 0)
        self._await_answer(life)
        self._end(life, peacefully=rng.random() < 0.5)

    def _clock(self, rng: random.Random) -> None:
        """Step the wall clock by hours, forwards or back, and at times between two lives."""
        assert self._shift is not None
        boot = None
        if rng.random() < 0.3:  # while it is away, and the machine is started anew
            self._step(rng)
            boot = f"boot-{rng.random()}"
        life = self._begin(rate_hz=50, boot=boot)
        self._await(life, self._is_running, "it does not start")
        self._pause(life, rng.random() * 0.1)
        self._step(rng)
        self._await_answer(life)
        self._struck(self._truth.evidence["stepped"] > 0)
        self._end(life, peacefully=rng.random() < 0.5)

    def _step(self, rng: random.Random) -> None:
        assert self._shift is not None
        self._shift.value = rng.randrange(-48 * _HOUR_S, 48 * _HOUR_S)

    def _begin(
        self,
        *,
        rate_hz: float | None,
        answer_within_ms: int = 400,
        window: int = 64,
        keepalive_s: int = 20,
        in_parts: bool = False,
        boot: str | None = None,
    ) -> Life:
        """Fork a device, if need be one that believes in another ``boot`` of the machine.

        ``in_parts``: its packets are so small that each ask takes several of them.
        """
        self.counts["lives with asks in parts"] += in_parts
        assert self._broker is not None
        what = config(
            bundle=self._bundle,
            data=self._data,
            broker=self._broker.url,
            rate_hz=rate_hz,
            answer_within_ms=answer_within_ms,
            window=window,
            keepalive_s=keepalive_s,
            max_packet_bytes=_SMALL_PACKET_BYTES if in_parts else None,
        )

        def work(witness: Witness) -> None:
            if self._network is not None:
                self._network.enter()
            if boot is not None:
                _default(DurableOutbox.__init__, boot=boot)
            _default(Pump.__init__, window=Window(lease_s=_LEASE_S))
            live(witness, what, base=self._base)

        (self._base / REPORT).unlink(missing_ok=True)
        self._outcomes.begin_life()
        self._resumed = sum(not known.final for known in self._truth.asks.values())
        self._life = Life(work, shared=self._shared, hear=self._truth.hear)
        return self._life

    def _end(self, life: Life, *, peacefully: bool) -> None:
        """End a device, and compare its disk and its outcomes with all that was said."""
        how = life.end(signal.SIGTERM if peacefully else signal.SIGKILL)
        if how != (0 if peacefully else -signal.SIGKILL):
            self.faults.append(f"ended by {how}")
        self._outcomes.read()
        found = self._truth.check(self._base / OUTBOX)
        self._outcomes.note_final(self._truth.ended)
        self._outcomes.note_final(one for one, kept in found.asks.items() if kept.final)
        if peacefully:
            self._check_report()

    def _check_report(self) -> None:
        """Compare what the device has counted with what its users have seen."""
        path = self._base / REPORT
        if not path.exists():
            self.faults.append("it ended without a report")
            return
        report = msgspec.json.decode(path.read_bytes())
        stream, here = report["streams"][0], self._outcomes.here
        routes, ends = stream["routes"], stream["ends"]
        pairs = {
            "read": (stream["read"], sum(routes.values())),
            "asked": (routes["escalated"], here["asked"]),
            "sure": (routes["accepted"], here["sure"]),
            "resumed": (stream["resumed"], self._resumed),
            "ended": (sum(ends.values()), here["final"]),
            "asked and resumed": (routes["escalated"] + stream["resumed"], here["final"]),
            "late": (report["counts"].get("late_answer", 0), here["late"]),
            "waiting, evicted, dead and lost": (
                stream["waiting"] + ends["evicted"] + ends["dead"] + ends["lost"],
                0,
            ),
        }
        for what, (said, seen) in pairs.items():
            if said != seen:
                self.faults.append(f"its report says {said} {what}; there are {seen}")
        self.counts["reports"] += 1

    def _is_running(self) -> bool:
        return self._shared[RUNNING] == 1

    def _is_done(self) -> bool:
        """Whether nothing is owed any more, and what was asked in this life is answered."""
        self._outcomes.read()
        asks = self._truth.asks.values()
        return bool(self._outcomes.answered) and all(known.is_over(2) for known in asks)

    def _await_answer(self, life: Life) -> None:
        """Wait until an ask is answered in time that is made from now on."""
        self._outcomes.read()
        before = set(self._outcomes.asked)
        self._await(life, lambda: self._is_answered(before), "a fresh ask is not answered")
        self.counts["fresh"] += 1

    def _is_answered(self, before: set[str]) -> bool:
        self._outcomes.read()
        return bool(self._outcomes.answered - before)

    def _await(self, life: Life, done: Callable[[], bool], what: str) -> None:
        if not life.until(done, patience_s=_PATIENCE_S):
            self.faults.append(what)

    def _pause(self, life: Life, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        life.until(lambda: time.monotonic() > until_s)

    def _employ(self, *, more: bool = False) -> None:
        """Start a worker, in place of those that there are or beside them."""
        assert self._broker is not None
        if not more:
            self._dismiss()
        self._made += 1
        worker = FarEnd(
            self._broker.url,
            self._contract,
            name=f"w{self._made}",
            busy_s=_BUSY_S.get(self._kind, 0.0),
            hear=self._truth.hear,
        )
        self._workers.append(worker)
        if not worker.life.until(lambda: worker.serving):
            self.faults.append("a worker does not serve")

    def _dismiss(self) -> None:
        for worker in self._workers:
            worker.life.end()
        self._workers.clear()

    def _struck(self, really: bool) -> None:  # noqa: FBT001 -- the one thing it is told
        self.counts[STRUCK] += really

    def _fresh_outcomes(self) -> Outcomes:
        truth = self._truth
        return Outcomes(self._base / OUTCOMES, counts=truth.counts, faults=truth.faults)


def _default(function: Callable[..., object], **values: object) -> None:
    """Change what a function takes where it is not told otherwise."""
    vars_of: dict[str, object] = getattr(function, "__kwdefaults__")  # noqa: B009 -- unknown to types
    vars_of.update(values)
