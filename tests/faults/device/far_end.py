"""What the device talks to: a mosquitto, and a worker in a process of its own."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from hedge.models.records import Probs
from hedge.uplink.asks import Contract
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.broker_url import Broker as Url
from hedge.uplink.link.mqtt import MqttLink

from ..witness import Life, Shared, Witness
from .samples import answer

SERVING, ANSWERING = 3, 4
"""Flags of a worker's shared memory: asks can come; it has some in its hands."""

_PATIENCE_S = 20.0
_COMMON = ("allow_anonymous true", "set_tcp_nodelay true", "user root")
_PERSISTENT = ("persistence true", "autosave_interval 1", "autosave_on_changes true")


def mosquitto() -> str | None:
    """Return the program, if it is installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Broker:
    """A mosquitto on a port of its own, which may be killed and come back."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self._folder = folder
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as listener:
            listener.bind((host, 0))
            self._port = int(listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Return where it is."""
        return f"mqtt://{self._host}:{self._port}"

    def start(self, *, persistent: bool = False) -> None:
        """Start it, and return when it takes connections."""
        lines = [f"listener {self._port} {self._host}", *_COMMON]
        if persistent:
            lines += [*_PERSISTENT, f"persistence_location {self._folder}/"]
        path = self._folder / "mosquitto.conf"
        path.write_text("\n".join(lines))
        program = mosquitto()
        if program is None:
            raise OSError("mosquitto is not installed")
        self._process = subprocess.Popen(
            [program, "-c", str(path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self._host, self._port), 1),
            ):
                return
            time.sleep(0.002)
        raise OSError("mosquitto does not start")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class FarEnd:
    """A worker process, forked from us, that gives each sample its one right answer.

    ``busy_s`` is how long it has a batch in its hands.
    """

    def __init__(
        self,
        url: str,
        contract: Contract,
        *,
        name: str,
        busy_s: float,
        hear: Callable[[bytes], set[str]],
    ) -> None:
        self._shared = Shared()

        def work(witness: Witness) -> None:
            def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
                witness.shared[ANSWERING] = 1
                time.sleep(busy_s)
                witness.shared[ANSWERING] = 0
                return answer(batch), None

            def serving(_: str) -> None:
                witness.shared[SERVING] = 1

            Worker(
                MqttLink(Url.parse(url), client_id=f"hedge-worker-{name}"),
                name=name,
                responders=[Responder(contract=contract, respond=respond)],
                on_serving=serving,
            ).run()

        self._life = Life(work, shared=self._shared, hear=hear, longest_s=0)

    @property
    def serving(self) -> bool:
        """Whether it has subscribed."""
        return self._shared[SERVING] == 1

    @property
    def answering(self) -> bool:
        """Whether it has asks in its hands."""
        return self._shared[ANSWERING] == 1

    @property
    def life(self) -> Life:
        """Return its process."""
        return self._life
