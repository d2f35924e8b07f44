"""How a link introduces itself to a broker: paho's client for it, and what its CONNECT says."""

from __future__ import annotations

from paho.mqtt.client import MQTT_CLEAN_START_FIRST_ONLY, CleanStartOption, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from .broker_url import Broker, Version
from .dial import Dialling
from .lean import LeanClient
from .link import Will


class Greeting:
    """What is the same at every connection to ``broker``; see `MqttLink`.

    Packets longer than ``max_receive_bytes`` are not wanted.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        password: str | None,
        keepalive_s: int,
        session_s: int,
        connect_timeout_s: float,
        window: int,
        max_receive_bytes: int,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._password = password
        self._keepalive_s = keepalive_s
        self._session_s = session_s
        self._timeout_s = connect_timeout_s
        self._window = window
        self._max_receive_bytes = max_receive_bytes

    def client(self, dialling: Dialling, *, version: Version, will: Will | None) -> LeanClient:
        """Return a new client on what was reached.

        Raises:
            OSError: nobody was.
        """
        client = LeanClient(
            sock=dialling.result(),
            tls=dialling.tls,
            max_packet_bytes=self._max_receive_bytes,
            path=self._broker.path,
            callback_api_version=CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            clean_session=None if version == "5" else not self._session_s,
            protocol=MQTTv5 if version == "5" else MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = self._timeout_s
        client.max_inflight_messages = self._window
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._password)
        if will is not None:
            client.will_set(will.topic, will.payload, qos=1, retain=True)
        return client

    def connect(self, client: LeanClient, dialling: Dialling, *, version: Version) -> None:
        """Send the CONNECT.

        Raises:
            OSError: the connection failed.
            ValueError: its name is one that no host can have.
        """
        client.connect(
            *dialling.place,
            self._keepalive_s,
            clean_start=self._clean_start(version),
            properties=self._properties(version),
        )

    def _clean_start(self, version: Version) -> CleanStartOption:
        return MQTT_CLEAN_START_FIRST_ONLY if version != "5" else not self._session_s

    def _properties(self, version: Version) -> PahoProperties | None:
        if version != "5":
            return None
        properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.MaximumPacketSize = self._max_receive_bytes
        properties.SessionExpiryInterval = self._session_s
        return properties
