"""Every metric of a worker, as docs/metrics.md lists them."""

from __future__ import annotations

from .exposition import Family, Kind


def _family(name: str, kind: Kind, text: str, *labels: str) -> Family:
    return Family(f"hedge_worker_{name}", kind, text, labels)


CONNECTED = _family("connected", "gauge", "Whether the broker has accepted us.")
READY = _family("ready", "gauge", "Whether asks can come and will be answered.")
WAITING = _family("waiting_asks", "gauge", "Asks in hand, not answered yet.")
CLAIMED = _family("claimed_requests", "gauge", "Requests of which parts miss.")
ASKS = _family("asks_total", "counter", "Asks that came.")
REPEATS = _family("repeats_total", "counter", "Asks that came again.")
REFUSALS = _family("refusals_total", "counter", "Asks answered by an error.")
CONNECTS = _family("connects_total", "counter", "Connections that the broker took.")
SENT = _family("sent_bytes_total", "counter", "Of topics and payloads.")
RECEIVED = _family("received_bytes_total", "counter", "Of topics and payloads.")
DROPPED = _family("dropped_total", "counter", "Messages that came to nothing.", "reason")
MODEL_READY = _family("model_ready", "gauge", "Whether the model is there.", "model")
ANSWERS = _family("answers_total", "counter", "Asks answered.", "model")
BATCHES = _family("batches_total", "counter", "Calls of the model.", "model")
ANSWER = _family("answer_seconds", "summary", "From an ask's arrival to its answer.", "model")
CALL = _family("model_seconds", "summary", "The model alone, by batch.", "model")
PAIRS = _family(
    "pairs_total", "counter", "Answers by what became of them as pairs.", "model", "fate"
)
EVICTED = _family("pairs_evicted_total", "counter", "Kept pairs that gave way to others.", "model")

FAMILIES: tuple[Family, ...] = (
    *(CONNECTED, READY, WAITING, CLAIMED),
    *(ASKS, REPEATS, REFUSALS, CONNECTS, SENT, RECEIVED, DROPPED),
    *(MODEL_READY, ANSWERS, BATCHES, ANSWER, CALL, PAIRS, EVICTED),
)
