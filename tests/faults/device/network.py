"""A network of the device's own, whose link can be cut without anybody being told."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from pathlib import Path

from ..mounts import runs

_NEWNET = 0x40000000


class Network:
    """A namespace joined to ours by a pair of virtual interfaces.

    `cut` drops all packets of both directions on their arrival; neither end gets a reset.
    """

    def __init__(self) -> None:
        number = os.getpid()
        self._name = f"hedge-{number}"
        self._ours, self._theirs = f"hf{number}a", f"hf{number}b"
        place = f"10.{200 + number // 250 % 50}.{number % 250}"
        self.host = f"{place}.1"
        self._other = f"{place}.2"

    def open(self) -> str | None:
        """Make it; return what this machine lacks for it."""
        steps = (
            ("ip", "netns", "add", self._name),
            ("ip", "link", "add", self._ours, "type", "veth", "peer", self._theirs),
            ("ip", "link", "set", self._theirs, "netns", self._name),
            ("ip", "addr", "add", f"{self.host}/30", "dev", self._ours),
            ("ip", "link", "set", self._ours, "up"),
            ("ip", "-n", self._name, "addr", "add", f"{self._other}/30", "dev", self._theirs),
            ("ip", "-n", self._name, "link", "set", self._theirs, "up"),
        )
        for step in steps:
            if not runs(*step):
                return f"cannot make a network namespace here: {' '.join(step)} fails"
        for here in (True, False):
            if not self._nft(here=here, cut=False):
                return "nft does not work here"
        return None

    def enter(self) -> None:
        """Put this process into the namespace."""
        with Path(f"/run/netns/{self._name}").open("rb") as stream:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(stream.fileno(), _NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")

    def cut(self) -> None:
        """Drop every packet from now on, at either end."""
        self._both(cut=True)

    def heal(self) -> int:
        """Let packets pass again; return how many were dropped."""
        dropped = sum(self._dropped(here=here) for here in (True, False))
        self._both(cut=False)
        return dropped

    def close(self) -> None:
        """Leave nothing behind."""
        runs("nft", "delete", "table", "inet", self._table)
        runs("ip", "link", "del", self._ours)
        runs("ip", "netns", "del", self._name)

    @property
    def _table(self) -> str:
        return f"hedge_{self._ours}"

    def _both(self, *, cut: bool) -> None:
        for here in (True, False):
            if not self._nft(here=here, cut=cut):
                raise OSError("nft does not work any more")

    def _nft(self, *, here: bool, cut: bool) -> bool:
        """Set what happens to what arrives at one end."""
        end = self._ours if here else self._theirs
        table = f"inet {self._table}"
        steps = [f"add table {table}", f"delete table {table}", f"add table {table}"]
        steps += [f"add chain {table} c {{ type filter hook prerouting priority -300; }}"]
        steps += [f'add rule {table} c iifname "{end}" counter drop'] * cut
        text = "".join(f"{step}\n" for step in steps)
        command = [*self._at(here=here), "nft", "-f", "-"]
        ran = subprocess.run(command, input=text.encode(), check=False, capture_output=True)
        return ran.returncode == 0

    def _dropped(self, *, here: bool) -> int:
        command = [*self._at(here=here), "nft", "-j", "list", "table", "inet", self._table]
        ran = subprocess.run(command, check=True, capture_output=True)
        rules = [one["rule"] for one in json.loads(ran.stdout)["nftables"] if "rule" in one]
        parts = [part for rule in rules for part in rule["expr"] if "counter" in part]
        return sum(int(part["counter"]["packets"]) for part in parts)

    def _at(self, *, here: bool) -> tuple[str, ...]:
        return () if here else ("nsenter", f"--net=/run/netns/{self._name}")
