"""The outcomes of a device while it writes them: when each stream gave its last."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path


class Watch:
    """Follows a file of outcomes; times are of the monotonic clock, to about 5 ms."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._times: defaultdict[str, list[float]] = defaultdict(list)
        self.routes: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._ended = True
        self._thread.join(5)

    def count(self, stream: str) -> int:
        """Return how many outcomes of a stream have come."""
        return len(self._times[stream])

    def first_after(self, stream: str, moment_s: float) -> float | None:
        """Return how long after a moment the stream gave its next good outcome."""
        later = next((at for at in self._times[stream] if at > moment_s), None)
        return None if later is None else later - moment_s

    def silence_s(self, stream: str, begin_s: float, end_s: float) -> float:
        """Return the longest time without a good outcome between two moments."""
        within = [at for at in self._times[stream] if begin_s <= at <= end_s]
        bounds = [begin_s, *within, end_s]
        return max(later - earlier for earlier, later in itertools.pairwise(bounds))

    def _run(self) -> None:
        while not self._path.exists() and not self._ended:
            time.sleep(0.01)
        if self._ended:
            return
        rest = b""
        with self._path.open("rb") as file:
            while not self._ended:
                data = rest + file.read(1 << 16)
                *lines, rest = data.split(b"\n")
                for line in lines:
                    self._note(json.loads(line))
                if not lines:
                    time.sleep(0.005)

    def _note(self, line: dict[str, str]) -> None:
        stream, route = line["stream"], line["route"]
        self.routes[stream][route] += 1
        if route != "failed":
            self._times[stream].append(time.monotonic())
