"""The faults: each is one cycle of a device's life that ends badly."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, get_args

from .device import PHASES, Device, fail_syncs, opened, record_of, tear
from .truth import Truth

Kind = Literal["kill", "torn", "flip", "truncate", "enospc", "eio", "powercut"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN; 2: without flushing the journal
_ANEW = {"kill": 500, "flip": 20, "truncate": 20}  # cycles after which an outbox is begun anew
_ANEW_ELSE = 100


class Bench:
    """Where cycles of one kind run: a folder, or a file system of their own."""

    def __init__(self, kind: Kind, folder: Path, *, seed: int) -> None:
        self.kind = kind
        self.seed = seed
        self.truth = Truth()
        self._place = folder / kind
        self._place.mkdir(parents=True)
        self._image = folder / f"{kind}.img"
        self._shared = mmap.mmap(-1, mmap.PAGESIZE)
        self._max_bytes = 1 << 19 if kind == "enospc" else 4 << 20  # half of the small disk

    @property
    def folder(self) -> Path:
        """Return where the outbox lies."""
        return self._place / "outbox"

    def missing(self) -> str | None:
        """Prepare the place; return what this machine lacks for the kind."""
        if self.kind == "enospc":
            small = ("mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(self._place))
            return None if _runs(*small) else "cannot mount a small tmpfs here"
        with self._image.open("wb") as image:
            image.truncate(16 << 20)
        mounted = _runs("mkfs.ext4", "-q", "-F", str(self._image)) and self.mount()
        if self.kind == "powercut" and not mounted:
            return "cannot mount ext4 from a file here"
        return None

    def mount(self) -> bool:
        """Mount the file system of the bench, if that can be."""
        return _runs("mount", "-o", "loop", str(self._image), str(self._place))

    def close(self) -> None:
        """Leave no mount behind."""
        if os.path.ismount(self._place):
            subprocess.run(["umount", "--lazy", str(self._place)], check=True)

    def cycle(self, number: int) -> None:
        """Live through one cycle, and check what is left.

        What is wrong is added to the truth's faults.
        """
        seed = hash((self.seed, KINDS.index(self.kind), number))
        rng = random.Random(seed)  # noqa: S311 -- choices, not secrets
        if number % _ANEW.get(self.kind, _ANEW_ELSE) == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.sync()  # or a power cut brings it back
            self.truth.asks.clear()
            self.truth.over.clear()
        getattr(self, f"_{self.kind}")(number, rng)
        self.truth.refused.clear()

    def _kill(self, number: int, rng: random.Random) -> None:
        with self._device(number, rng) as pid:
            if rng.random() < 0.9:
                self._wait_until_open(pid)
            time.sleep(rng.random() * 0.012)
        self.truth.check(self.folder)
        if number % 10 == 0:
            self._fresh(number)

    def _torn(self, number: int, rng: random.Random) -> None:
        at = rng.randrange(1, 60)
        with self._device(number, rng, prepare=lambda: tear(at, seed=number)) as pid:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.truth.check(self.folder)
        self._fresh(number)

    def _flip(self, number: int, rng: random.Random) -> None:
        self._damage(number, rng, _flipped)

    def _truncate(self, number: int, rng: random.Random) -> None:
        self._damage(number, rng, _cut)

    def _damage(
        self, number: int, rng: random.Random, spoil: Callable[[Path, random.Random], None]
    ) -> None:
        with self._device(number, rng, steps=rng.randrange(1, 60)) as pid:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        self.truth.check(self.folder)
        files = [
            path for path in self.folder.iterdir() if path.suffix == ".log" or path.name == "tail"
        ]
        if files:  # a short life may have had nothing to write
            spoil(rng.choice(sorted(files)), rng)
        self.truth.check(self.folder, damaged=True, words_from=4)
        self._fresh(number)

    def _enospc(self, number: int, rng: random.Random) -> None:
        ballast = self._place / "ballast"
        with self._device(number, rng, ballast=ballast) as pid:
            self._wait_until_open(pid)
            time.sleep(rng.random() * 0.02)
        self.truth.check(self.folder, words_from=3)
        ballast.unlink(missing_ok=True)
        self._fresh(number)

    def _eio(self, number: int, rng: random.Random) -> None:
        tracer = shutil.which("strace")
        first, step = rng.randrange(1, 20), rng.randrange(1, 6)
        share = rng.random() * 0.5
        prepare = None if tracer else lambda: fail_syncs(share, seed=number)
        inject = f"fdatasync,fsync:error=EIO:when={first}+{step}"
        with (
            self._device(number, rng, prepare=prepare, held=tracer is not None) as pid,
            _traced(tracer, pid, inject),
        ):
            self._shared[2] = 1
            self._wait_until_open(pid)
            time.sleep(rng.random() * 0.03)
            os.kill(pid, signal.SIGKILL)
        self.truth.check(self.folder, words_from=3)
        self._fresh(number)

    def _powercut(self, number: int, rng: random.Random) -> None:
        with self._device(number, rng) as pid:
            if rng.random() < 0.9:
                self._wait_until_open(pid)
            time.sleep(rng.random() * 0.02)
            fd = os.open(self._place, os.O_RDONLY | os.O_DIRECTORY)
            os.kill(pid, signal.SIGSTOP)  # who has no power says nothing more
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", 2))
            os.close(fd)
        subprocess.run(["umount", str(self._place)], check=True)
        if not self.mount():
            raise OSError("the file system did not come back")
        self.truth.check(self.folder, words_from=3)
        self._fresh(number)

    @contextlib.contextmanager
    def _device(
        self,
        number: int,
        rng: random.Random,
        *,
        steps: int | None = None,
        ballast: Path | None = None,
        prepare: Callable[[], None] | None = None,
        held: bool = False,
    ) -> Iterator[int]:
        """Fork a device, and kill it at the end of the block; then hear what it said."""
        self._shared[:3] = bytes(3)
        hear, say = os.pipe()
        fcntl.fcntl(say, fcntl.F_SETPIPE_SZ, 1 << 20)
        seed = rng.randrange(1 << 30)
        pid = os.fork()
        if pid == 0:
            try:
                while held and not self._shared[2]:
                    time.sleep(0.0002)
                if prepare is not None:
                    prepare()
                device = Device(
                    self.folder,
                    max_bytes=self._max_bytes,
                    cycle=number,
                    seed=seed,
                    said=say,
                    shared=self._shared,
                )
                device.live(steps=steps, ballast=ballast)
            except BaseException as error:  # noqa: BLE001 -- its parent has to hear of it
                os.write(
                    say, f"x {type(error).__name__}:{error}".replace("\n", " ").encode() + b"\n"
                )
            os._exit(0)
        os.close(say)
        try:
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            with os.fdopen(hear, "rb") as stream:
                said = stream.read()
        self.truth.counts[f"ended while {PHASES[self._shared[0]]}"] += 1
        if not self.truth.hear(said):
            self.truth.counts["ended before it was open"] += 1

    def _wait_until_open(self, pid: int) -> None:
        until_s = time.monotonic() + 10
        while not self._shared[1] and time.monotonic() < until_s:
            time.sleep(0.0002)
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None:
                return

    def _fresh(self, number: int) -> None:
        """Open the outbox without any fault: it must open, know each loss, and take an ask."""
        try:
            outbox = opened(self.folder, max_bytes=self._max_bytes)
            ask_id = f"{number}-fresh"
            self.truth.over.add(ask_id)
            placed = outbox.put([record_of(ask_id)])
            found = outbox.find(ask_id)
            outbox.settle({ask_id: "answered"})
            outbox.final([ask_id])
            outbox.close()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is what we look for
            self.truth.faults.append(f"start-up refused: {type(error).__name__}: {error}")
            return
        if placed.refused or found is None or found.request.body != record_of(ask_id).request.body:
            self.truth.faults.append("a fresh ask did not pass")
        self.truth.counts["fresh"] += 1


def _flipped(path: Path, rng: random.Random) -> None:
    """Change one to three bits of a file, or a whole byte."""
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


def _runs(*command: str) -> bool:
    """Run a command; return whether it succeeded."""
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
