"""Which of a worker's models are there: those of a server can be away for a while."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from ...models.errors import ModelAwayError
from ..link.backoff import Backoff
from .responder import Responder

_log = logging.getLogger(__name__)


class Attendance:
    """Looks after the models that can be absent. They are taken for absent to begin with.

    ``away`` says of each absent one, by its contract's digest, why it is.
    """

    def __init__(self, responders: Sequence[Responder], *, backoff: Backoff | None = None) -> None:
        self.away = {
            one.contract.digest: "not looked for yet" for one in responders if one.check is not None
        }
        self._responders = {one.contract.digest: one for one in responders}
        self._backoff = backoff or Backoff()
        self._next_s = time.monotonic()

    def wait_s(self) -> float | None:
        """Return how long nothing has to be done; None: until a model is lost."""
        return max(0.0, self._next_s - time.monotonic()) if self.away else None

    def lose(self, contract: str, reason: str) -> None:
        """Note that a model has gone away."""
        if contract not in self.away:
            _log.warning("waiting for %s: %s", self._responders[contract].contract.name, reason)
            self._next_s = time.monotonic() + self._backoff.next_s()
        self.away[contract] = reason

    def look(self) -> bool:
        """Look for one that is absent, if it is time to; return whether that was the last.

        One at a time, since each may keep us waiting and the link must not.

        Raises:
            Exception: a server is there, and what it serves is not the model we need.
        """
        if not self.away or self.wait_s():
            return False
        contract = next(iter(self.away))
        self._look_for(self._responders[contract])
        if contract in self.away:
            self.away[contract] = self.away.pop(contract)  # the others first, next time
            self._next_s = time.monotonic() + self._backoff.next_s()
        elif not self.away:
            self._backoff.reset()
            return True
        return False

    def _look_for(self, responder: Responder) -> None:
        contract = responder.contract
        try:
            if responder.check is not None:
                responder.check()
        except ModelAwayError as error:
            if self.away[contract.digest] != str(error):
                _log.warning("waiting for %s: %s", contract.name, error)
            self.away[contract.digest] = str(error)
        else:
            _log.info("%s is there", contract.name)
            del self.away[contract.digest]
