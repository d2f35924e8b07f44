"""The faults: each is one cycle of a device's life that ends badly."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from hedge.uplink.outbox.log_files import TAIL

from ..mounts import make_ext4, mount_small, remount_ext4, unmount
from ..running import STRUCK
from ..truth import Truth
from ..witness import GO, PHASES, Life, Shared, Witness
from .device import Device, body_of, fail_syncs, opened, record_of, tear, waits

Kind = Literal["kill", "torn", "flip", "truncate", "enospc", "eio", "powercut"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN; 2: without flushing the journal
_ANEW = {"kill": 500, "flip": 20, "truncate": 20}  # cycles after which an outbox is begun anew
_ANEW_ELSE = 100
_MAX_BYTES = 4 << 20
_SMALL_BYTES = 1 << 19  # half of the small disk
_KILLED = -signal.SIGKILL


class Bench:
    """Where cycles of one kind run: a folder, or a file system of their own."""

    def __init__(self, kind: Kind, folder: Path, *, seed: int) -> None:
        self._kind = kind
        self._seed = seed
        self._truth = Truth(body_of=body_of, waits=waits)
        self._place = folder / kind
        self._place.mkdir(parents=True)
        self._image = folder / f"{kind}.img"
        self._shared = Shared()
        self._on_ext4 = False
        self._max_bytes = _SMALL_BYTES if kind == "enospc" else _MAX_BYTES

    @property
    def counts(self) -> Counter[str]:
        """Return what was seen."""
        return self._truth.counts

    @property
    def faults(self) -> list[str]:
        """Return what must not be."""
        return self._truth.faults

    @property
    def _folder(self) -> Path:
        """Return where the outbox lies."""
        return self._place / "outbox"

    def missing(self) -> str | None:
        """Prepare the place; return what this machine lacks for the kind."""
        if self._kind == "enospc":
            small = mount_small(self._place, size_bytes=2 * _SMALL_BYTES)
            return None if small else "cannot mount a small tmpfs here"
        self._on_ext4 = make_ext4(self._image, self._place, size_bytes=4 * _MAX_BYTES)
        if self._kind == "powercut" and not self._on_ext4:
            return "cannot mount ext4 from a file here"
        return None

    def close(self) -> None:
        """Leave no mount behind."""
        unmount(self._place)

    def cycle(self, number: int) -> None:
        """Live through one cycle, and check what is left."""
        rng = random.Random(f"{self._seed}/{self._kind}/{number}")  # noqa: S311 -- choices, not secrets
        if number % _ANEW.get(self._kind, _ANEW_ELSE) == 0:
            if number:
                self.finish()
            shutil.rmtree(self._folder, ignore_errors=True)
            os.sync()  # or a power cut brings it back
            self._truth.forget()
        self._truth.evidence.clear()
        getattr(self, f"_{self._kind}")(number, rng)
        self._truth.refused.clear()

    def finish(self) -> None:
        """End all that waits: the outbox must be empty then, for whoever looks."""
        try:
            outbox = opened(self._folder, max_bytes=self._max_bytes)
            self._open_as_said(outbox.counters())
            waiting = [record.id for record in outbox.due(1 << 30)]
            outbox.settle(dict.fromkeys(waiting, "answered"))
            outbox.final(waiting)
            outbox.close()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what we look for
            self.faults.append(f"start-up refused: {type(error).__name__}: {error}")
            return
        if len(waiting) != len(self._truth.asks):
            self.faults.append(f"{len(waiting)} asks to send, of {len(self._truth.asks)}")
        for known in self._truth.asks.values():
            known.settled = known.final = 3
        if self._truth.check(self._folder).asks:
            self.faults.append("not empty, though all has ended")
        self.counts["drained"] += 1

    def _kill(self, number: int, rng: random.Random) -> None:
        with self._device(number, rng) as life:
            if rng.random() < 0.9:
                self._await_open(life)
            time.sleep(rng.random() * 0.012)
            self._struck()
        self._truth.check(self._folder)
        if number % 10 == 0:
            self._fresh(number)

    def _torn(self, number: int, rng: random.Random) -> None:
        at = rng.randrange(1, 60)
        with self._device(number, rng, prepare=lambda one: tear(at, one, rng=rng)) as life:
            life.until(lambda: life.ended)
        self._struck(self._truth.evidence["torn:in-part"] == 1)
        self._truth.check(self._folder)
        self._fresh(number)

    def _flip(self, number: int, rng: random.Random) -> None:
        self._damage(number, rng, _flipped)

    def _truncate(self, number: int, rng: random.Random) -> None:
        self._damage(number, rng, _cut)

    def _damage(
        self, number: int, rng: random.Random, spoil: Callable[[Path, random.Random], None]
    ) -> None:
        with self._device(number, rng, steps=rng.randrange(1, 60)) as life:
            life.until(lambda: life.ended)
        self._truth.check(self._folder)
        files = _contents(self._folder)
        if files:  # a short life may have had nothing to write
            spoil(self._folder / rng.choice(sorted(files)), rng)
        self._struck(files != _contents(self._folder))
        found = self._truth.check(self._folder, damaged=True, words_from=4)
        self.counts["damage cost records"] += found.lost > 0
        self._fresh(number)

    def _enospc(self, number: int, rng: random.Random) -> None:
        ballast = self._place / "ballast"
        with self._device(number, rng, ballast=ballast) as life:
            self._await_open(life)
            time.sleep(rng.random() * 0.02)
        self._note_failures("ENOSPC")
        self._truth.check(self._folder, words_from=3)
        ballast.unlink(missing_ok=True)
        self._fresh(number)

    def _eio(self, number: int, rng: random.Random) -> None:
        tracer = shutil.which("strace")
        first, step, share = rng.randrange(1, 20), rng.randrange(1, 6), rng.random() * 0.5

        def prepare(witness: Witness) -> None:
            if tracer is None:
                fail_syncs(share, rng=rng)
            while not witness.shared[GO]:
                time.sleep(0.0002)

        inject = f"fdatasync,fsync:error=EIO:when={first}+{step}"
        with (
            self._device(number, rng, prepare=prepare) as life,
            _traced(tracer, life.pid, inject),
        ):
            self._shared[GO] = 1
            self._await_open(life)
            time.sleep(rng.random() * 0.03)
            life.send(signal.SIGKILL)
            life.until(lambda: life.ended)
        if self._on_ext4 and rng.random() < 0.5:
            self._cut_power()  # so that whatever was not synced is really lost
            remount_ext4(self._image, self._place)
            self.counts["power cut after it"] += 1
        self._note_failures("EIO")
        self._truth.check(self._folder, words_from=3)
        self._fresh(number)

    def _powercut(self, number: int, rng: random.Random) -> None:
        with self._device(number, rng) as life:
            if rng.random() < 0.9:
                self._await_open(life)
            time.sleep(rng.random() * 0.02)
            before = _contents(self._folder)  # as it is in memory
            life.send(signal.SIGSTOP)  # who has no power says nothing more
            self._cut_power()
        remount_ext4(self._image, self._place)
        self._note_unflushed(before, _contents(self._folder))
        self._truth.check(self._folder, words_from=3)
        self._fresh(number)

    def _cut_power(self) -> None:
        """Let the file system forget what it has not written to its disk."""
        fd = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", 2))
        finally:
            os.close(fd)

    def _struck(self, really: bool = True) -> None:  # noqa: FBT001, FBT002 -- the one thing it is told
        self.counts[STRUCK] += really

    def _note_failures(self, name: str) -> None:
        """Count the calls that failed in this life, and the life if there were any."""
        failed = {
            call.partition(":")[2]: count
            for call, count in self._truth.evidence.items()
            if call.startswith(f"{name}:")
        }
        for call, count in failed.items():
            self.counts[f"{name} from {call}"] += count
        self._struck(bool(failed))

    def _note_unflushed(self, before: dict[str, bytes], after: dict[str, bytes]) -> None:
        """Count what a power cut has taken of the logs, which only grow."""
        lost = sum(
            len(data) - _common(data, after[name])
            for name, data in before.items()
            if name in after and name != TAIL
        )
        self.counts["unflushed bytes lost"] += lost
        self._struck(lost > 0)

    @contextlib.contextmanager
    def _device(
        self,
        number: int,
        rng: random.Random,
        *,
        steps: int | None = None,
        ballast: Path | None = None,
        prepare: Callable[[Witness], None] | None = None,
    ) -> Iterator[Life]:
        """Fork a device, and kill it at the end of the block; then hear what it said."""

        def work(witness: Witness) -> None:
            if prepare is not None:
                prepare(witness)
            Device(
                self._folder,
                witness,
                max_bytes=self._max_bytes,
                cycle=number,
                rng=rng,
                steps=steps,
                ballast=ballast,
            ).live()

        life = Life(work, shared=self._shared, hear=self._truth.hear)
        try:
            yield life
        finally:
            how = life.end()
        if how != (_KILLED if steps is None else 0):
            self.faults.append(f"ended by {how}")
        self.counts[f"in {PHASES[self._shared.phase]}"] += steps is None
        self.counts["ended before it was open"] += "u" not in life.words

    def _await_open(self, life: Life) -> None:
        if not life.until(life.is_open) and not life.ended:
            self.faults.append("it does not open")

    def _fresh(self, number: int) -> None:
        """Open the outbox without any fault: it must open, know each loss, and take an ask."""
        ask_id = f"{number}-fresh"
        try:
            outbox = opened(self._folder, max_bytes=self._max_bytes)
            self._open_as_said(outbox.counters())
            self._truth.over.add(ask_id)
            placed = outbox.put([record_of(ask_id)])
            found = outbox.find(ask_id)
            outbox.settle({ask_id: "answered"})
            outbox.final([ask_id])
            outbox.close()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what we look for
            self.faults.append(f"start-up refused: {type(error).__name__}: {error}")
            return
        if placed.refused or found is None or found.request.body != body_of(ask_id):
            self.faults.append("a fresh ask did not pass")
        self.counts["fresh"] += 1

    def _open_as_said(self, counters: dict[str, int]) -> None:
        self._truth.opened(counters["recovered"], counters["lost"])


def _contents(folder: Path) -> dict[str, bytes]:
    """Return what the files of a log hold."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in folder.iterdir():
        if path.suffix == ".log" or path.name == TAIL:
            with contextlib.suppress(FileNotFoundError):  # cleared away meanwhile
                found[path.name] = path.read_bytes()
    return found


def _common(one: bytes, other: bytes) -> int:
    """Return with how many equal bytes two files begin."""
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(at for at in range(size) if one[at] != other[at])


def _flipped(path: Path, rng: random.Random) -> None:
    """Change one bit of a file, or a whole byte."""
    data = bytearray(path.read_bytes() or b"\0")
    data[rng.randrange(len(data))] ^= rng.choice((1, 2, 16, 128, 255))
    path.write_bytes(data)


def _cut(path: Path, rng: random.Random) -> None:
    """Cut a file anywhere; one in eight is gone."""
    if rng.random() < 1 / 8:
        path.unlink()
    else:
        os.truncate(path, rng.randrange(max(1, path.stat().st_size)))


@contextlib.contextmanager
def _traced(tracer: str | None, pid: int, inject: str) -> Iterator[None]:
    """Let strace spoil system calls of a process."""
    if tracer is None:
        yield
        return
    calls = inject.partition(":")[0]
    command = [tracer, "-p", str(pid), "-e", f"trace={calls}", "-e", f"inject={inject}"]
    with subprocess.Popen([*command, "-o", os.devnull], stderr=subprocess.DEVNULL) as process:
        status = Path(f"/proc/{pid}/status")
        until_s = time.monotonic() + 5
        while "TracerPid:\t0" in status.read_text() and time.monotonic() < until_s:
            time.sleep(0.001)
        yield
        process.terminate()
