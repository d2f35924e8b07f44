"""What device and worker build alike: a bundle's contract, and the link to the broker."""

from __future__ import annotations

import os
from pathlib import Path

from ..models.bundle import Bundle
from ..models.bundle import contract_of as digest_of
from ..uplink.asks import Contract
from ..uplink.link.broker_url import Broker, read_password
from ..uplink.link.link import KEEPALIVE_S
from ..uplink.link.mqtt import MqttLink
from ..uplink.link.tls import TlsFiles


def contract_of(bundle: Bundle, *, features: bool = False) -> Contract:
    """Return what an ask about this bundle and its answer must fit.

    With ``features`` it is what the bundle's [split] makes that is sent.
    """
    split = bundle.manifest.split
    if features and split is not None:
        return Contract(
            name=bundle.manifest.name,
            digest=digest_of(bundle.manifest, split),
            classes=len(bundle.labels),
            dtype=split.dtype,
            shape=(split.width,),
        )
    return Contract(
        name=bundle.manifest.name,
        digest=bundle.contract,
        classes=len(bundle.labels),
        dtype=bundle.input.dtype,
        shape=bundle.input.shape,
    )


def link_to(
    url: str,
    *,
    client_id: str,
    password_file: Path | None = None,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
    max_packet_bytes: int | None = None,
    keepalive_s: int = KEEPALIVE_S,
    session_s: int = 0,
) -> MqttLink:
    """Return the link to a broker, not yet open.

    Raises:
        ConfigError: the URL or one of the files is no good.
    """
    return MqttLink(
        Broker.parse(url),
        client_id=client_id,
        password=read_password(password_file, environ=os.environ),
        tls=TlsFiles(ca_file=ca_file, cert_file=cert_file, key_file=key_file),
        max_packet_bytes=max_packet_bytes,
        keepalive_s=keepalive_s,
        session_s=session_s,
    )
