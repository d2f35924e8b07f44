"""Bearing fault: the vibration of a load that nobody trained on, over MQTT as raw tensors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from hedge.models.dataset import load_dataset
from hedge.models.training import bearing

from .scene import Place, Scene, chosen, paced

_TOPIC = "plant/pump-3/vibration"
_ROWS = 256  # of a message: the device puts windows together
_SPEED = 4.0  # times the pace of the machine
_NOBODY = 16  # MQTT 5: no matching subscribers
_PATIENCE_S = 30.0


def scene(place: Place) -> Scene:
    """Train on 0 hp, calibrate on 1 hp, and play 2 hp."""
    out = place.folder / "bearing.hedge"
    data = place.data / "cwru_bearing"
    trained = bearing.train(out, data=data, seed=place.seed, say=place.say, effort=place.effort)
    rows = load_dataset(Path(trained.unseen_file))
    rows = rows.rows(chosen(len(rows.x), place.samples, seed=place.seed))
    assert rows.y is not None
    vibration: NDArray[np.float32] = rows.x.reshape(-1, _ROWS).astype("<f4")
    return Scene(
        bundle=out,
        x=rows.x,
        y=rows.y,
        play=lambda: _publish(vibration, place),
        values={'"mqtt://127.0.0.1:1883"': f'"{place.broker}"'},
    )


def _publish(messages: NDArray[np.float32], place: Place) -> None:
    client = Client(
        CallbackAPIVersion.VERSION2, client_id="sensor", protocol=MQTTProtocolVersion.MQTTv5
    )
    client.connect("127.0.0.1", place.port)
    client.loop_start()
    try:
        rate_hz = _SPEED * bearing.RATE_HZ / _ROWS
        for number in paced(len(messages), rate_hz=rate_hz):
            if number == 0:
                _publish_until_heard(client, messages[0].tobytes())
            else:
                client.publish(_TOPIC, messages[number].tobytes(), qos=1)
    finally:
        client.publish(f"{_TOPIC}/end", b"", qos=1).wait_for_publish(_PATIENCE_S)
        client.disconnect()
        client.loop_stop()


def _publish_until_heard(client: Client, payload: bytes) -> None:
    """Publish until the broker says that somebody has subscribed: the device may be just now."""
    heard = threading.Event()
    answered = threading.Event()

    def acknowledged(*told: Any) -> None:  # noqa: ANN401 -- paho's own
        if told[3].value != _NOBODY:
            heard.set()
        answered.set()

    client.on_publish = acknowledged
    for _ in paced(int(_PATIENCE_S * 10), rate_hz=10.0):
        answered.clear()
        client.publish(_TOPIC, payload, qos=1)
        answered.wait(_PATIENCE_S)
        if heard.is_set():
            client.on_publish = None
            return
    raise SystemExit("nobody has subscribed to the vibration")
