"""The device and its worker, as services inside the container, and what is to be seen of them."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .container import STATE, Container, Wrong

HEDGE = "/opt/hedge/bin/hedge"
CONFIG = "/etc/hedge/hedge.toml"
UNIT, WORKER, BROKER = "hedge.service", "hedge-worker.service", "mosquitto.service"
RATE_HZ = 20
_PASSWORD = "correct horse"  # noqa: S105 -- of a broker that nobody but the container reaches
_ROWS = 540 * 100  # more than any start lives through
_DEVICE = """\
[device]
name = "porch-7"

[[stream]]
name = "meter"
bundle = "digits"
answer_within_ms = {within_ms}
window = 65536
source = {{ kind = "replay", path = "rows.npz", rate_hz = {rate_hz} }}
audit = {{ share = 0 }}

[uplink]
broker = "{broker}"
{more}
[[sink]]
kind = "jsonl"
path = "/var/lib/hedge/outcomes.jsonl"
"""
_MOSQUITTO = """\
per_listener_settings true
listener 1883 127.0.0.1
allow_anonymous true
listener 1884 127.0.0.1
allow_anonymous false
password_file /etc/mosquitto/passwords
"""
_LOOPBACK = (
    "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, "
    "struct.pack('16sh14x', b'lo', {flags}))"
)


class Device:
    """What the scenarios do to a device, and what they ask of it.

    ``owed`` are the ids of all asks that were once seen in the outbox, on disk.
    """

    def __init__(self, container: Container) -> None:
        self.container = container
        self.owed: set[str] = set()

    # --- made ready ---

    def prepare(self, rows: Path) -> None:
        """Put configuration and samples into the image; start the broker."""
        etc = self.container.root / "etc"
        (etc / "hedge").mkdir(mode=0o755)
        with np.load(rows, allow_pickle=False) as arrays:
            x = arrays["X"]
        np.savez(etc / "hedge" / "rows.npz", X=np.resize(x, (_ROWS, *x.shape[1:])))
        self.configure()
        (etc / "mosquitto" / "conf.d" / "hedge.conf").write_text(_MOSQUITTO)
        for name in ("broker-password", "worker-password"):
            secret = etc / "hedge" / name
            secret.write_text(f"{_PASSWORD}\n")
            secret.chmod(0o600)
        self.run("mosquitto_passwd", "-b", "-c", "/etc/mosquitto/passwords", "hedge", _PASSWORD)
        self.run("chown", "mosquitto", "/etc/mosquitto/passwords")
        self.run("systemctl", "enable", "--now", BROKER)

    def configure(
        self,
        *,
        broker: str = "mqtt://127.0.0.1:1883",
        more: str = "",
        within_ms: int = 3_600_000,
        text: str | None = None,
    ) -> None:
        """Write the configuration, or any other text in its place."""
        good = _DEVICE.format(broker=broker, more=more, within_ms=within_ms, rate_hz=RATE_HZ)
        (self.container.root / CONFIG.lstrip("/")).write_text(good if text is None else text)

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command inside."""
        return self.container.run(*words, check=check)

    def systemctl(self, *words: str) -> str:
        """Ask systemd for something, and wait until it is done."""
        return self.run("systemctl", *words)

    def network(self, *, up: bool) -> None:
        """Take the loopback, all there is of a network, away or bring it back."""
        self.run("python3", "-c", _LOOPBACK.format(flags=int(up)))

    # --- seen ---

    def show(self, name: str, unit: str = UNIT) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def number(self, name: str, unit: str = UNIT) -> int:
        """Return a property of a unit that is a number."""
        return int(self.show(name, unit))

    @property
    def pid(self) -> int:
        """The daemon's process, as the container numbers it."""
        return self.number("MainPID")

    def ready_s(self) -> float:
        """Return how long the last start took until READY, by systemd's own clock."""
        begun = self.number("InactiveExitTimestampMonotonic")
        return (self.number("ActiveEnterTimestampMonotonic") - begun) / 1e6

    def await_state(self, *wanted: str, timeout_s: float = 60.0) -> str:
        """Wait until systemd says that the device is in one of the states."""
        return self.container.wait(lambda: self.show("ActiveState"), wanted, timeout_s=timeout_s)

    def await_restart(self, before: int, *, timeout_s: float = 60.0) -> float:
        """Wait until a process that is not ``before`` serves; return how many seconds."""
        begun_s = time.monotonic()
        self.until(
            lambda: self.pid not in {0, before} and self.show("ActiveState") == "active",
            "the device does not come back",
            timeout_s=timeout_s,
        )
        return time.monotonic() - begun_s

    def until(self, holds: Callable[[], bool], otherwise: str, *, timeout_s: float = 60.0) -> None:
        """Wait until something holds.

        Raises:
            Wrong: it does not come to hold.
        """
        until_s = time.monotonic() + timeout_s
        while not holds():
            if time.monotonic() > until_s:
                raise Wrong(f"{otherwise} ({timeout_s:g} s; {self.last_words()})")
            time.sleep(0.1)

    def signal(self, name: str) -> None:
        """Send the daemon, and none of its children, a signal."""
        self.systemctl("kill", "--kill-who=main", f"--signal={name}", UNIT)

    def journal(self, lines: int = 400) -> str:
        """Return the last lines of the device's journal, without times."""
        return self.run("journalctl", "-u", UNIT, "-o", "cat", "-n", str(lines))

    def last_words(self, unit: str = UNIT) -> str:
        """Return the last line of a unit's journal."""
        told = self.run("journalctl", "-u", unit, "-o", "cat", "-n", "1", check=False)
        return told.strip()

    # --- the outbox and the outcomes ---

    def outbox(self) -> set[str]:
        """Return the ids of the asks on disk that wait for an answer; they are owed from now."""
        found = self._json("outbox", "ls", CONFIG)
        ids = {ask["id"] for ask in found["asks"] if ask["state"] in {"waiting", "sent"}}
        self.owed |= ids
        return ids

    def stat(self) -> dict[str, Any]:
        """Return what `hedge outbox stat` says."""
        return self._json("outbox", "stat", CONFIG)

    def gather(self, count: int, *, timeout_s: float = 60.0) -> set[str]:
        """Wait until the outbox holds ``count`` asks more than it did; return all of them."""
        begun = len(self.outbox())
        found: set[str] = set()

        def enough() -> bool:
            found.clear()
            found.update(self.outbox())
            return len(found) >= begun + count

        self.until(enough, f"the outbox does not grow by {count}", timeout_s=timeout_s)
        return set(found)

    def ensure_kept(self, before: set[str], *, why: str) -> int:
        """Check that the outbox still holds what it did; return how many asks.

        Raises:
            Wrong: something is gone.
        """
        gone = before - self.outbox()
        if gone:
            raise Wrong(f"{len(gone)} of {len(before)} asks are gone after {why}")
        return len(before)

    def outcomes(self) -> list[dict[str, Any]]:
        """Return all outcomes that the device has written, in whatever session."""
        text = (self.container.state / "outcomes.jsonl").read_bytes()
        return [json.loads(line) for line in text.splitlines()]

    def account(self) -> dict[str, int]:
        """Count how the asks ended that were ever seen on disk.

        An answer is a final outcome, or is told as a late one: an orderly stop gives the user
        the edge's answer, and the ask itself is delivered later.
        """
        lines = [one for one in self.outcomes() if one["id"] in self.owed]
        finals = Counter(one["id"] for one in lines if one.get("final"))
        answers = Counter(
            one["id"]
            for one in lines
            if one["route"] in {"cloud", "fused"} and not one.get("degraded")
        )
        return {
            "stored": len(self.owed),
            "answered_once": sum(answers[one] == 1 for one in self.owed),
            "answered_twice": sum(answers[one] > 1 for one in self.owed),
            "unanswered": sum(answers[one] == 0 for one in self.owed),
            "final_once": sum(finals[one] == 1 for one in self.owed),
            "final_twice": sum(finals[one] > 1 for one in self.owed),
            "without_final": sum(finals[one] == 0 for one in self.owed),
        }

    def fill_disk(self) -> None:
        """Leave not a byte on the disk of the state."""
        self.run(
            *(
                "sh",
                "-c",
                f"dd if=/dev/zero of={STATE}/fill bs=64k; dd if=/dev/zero of={STATE}/rest",
            ),
            check=False,
        )
        if shutil.disk_usage(self.container.state).free > 1 << 20:
            raise Wrong("the disk is not full")

    def free_disk(self) -> None:
        """Give the disk back."""
        self.run("rm", "-f", f"{STATE}/fill", f"{STATE}/rest")

    def _json(self, *words: str) -> dict[str, Any]:
        place = "/root/told.json"
        self.run(HEDGE, *words, "--json", place)
        found: dict[str, Any] = json.loads(self.run("cat", place))
        return found
