"""The broker: reached, trusted, entered and listened to, as the daemon will do it.

The check comes under a client name of its own, since a broker would part from a daemon
that is running under the same one. It publishes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from ...uplink.link.broker_url import Broker
from ...uplink.link.budget import Budget
from ...uplink.link.link import Connected, Disconnected, Link, Subscribed
from ...uplink.link.quiet import QuietHours
from ...uplink.topics import Device as Address
from ..config import Config, UplinkConfig
from ..credentials import secret_path
from ..trust import why_untrusted
from ..way_out import device_link
from .finding import Finding, error, ok, warning

_PATIENCE_S = 20.0
_ATTEMPTS = 4  # at each node: both protocols, each twice
_REFUSALS = {
    "Not authorized": "the user or the password is wrong, or the broker's rules keep this one out",
    "Bad user name or password": "see [uplink] password_file and the user in the URL",
    "Name or service not known": "is the broker's name spelt right, and is there a name server?",
    "Temporary failure in name": "is the network up, and is there a name server?",
    "Connection refused": "nothing listens there: is the broker running, and the port right?",
    "timed out": "nobody answers: is a firewall in between, or the host down?",
    "No route to host": "is the network up?",
    "Network is unreachable": "is the network up?",
    "Hostname mismatch": "use the name that the certificate is made out to",
    "IP address mismatch": "use the name that the certificate is made out to",
    "local issuer": "give the authority that signed it as [uplink] ca_file",
    "self-signed": "give the authority that signed it as [uplink] ca_file",
    "has expired": "renew the broker's certificate, or set this device's clock",
    "not yet valid": "set this device's clock",
    "refuses our side": "see [uplink] cert_file and key_file",
    "wrong version number": "the broker speaks no TLS on this port",
    **dict.fromkeys(
        ("does not answer", "reset by peer", "connection lost", "EOF occurred"),
        "is it an MQTT broker's port, with TLS on both sides or on neither?",
    ),
}


def check_uplink(config: Config, uplink: UplinkConfig, *, base: Path) -> Iterator[Finding]:
    """Yield what can be said of [uplink] without the network.

    Raises:
        ConfigError: the URL, a file, a budget or quiet hours are no good.
    """
    broker = Broker.parse(uplink.broker)
    _link(config, uplink, base=base).close(timeout_s=0)
    if uplink.budget is not None:
        Budget(uplink.budget)
    if uplink.quiet_hours:
        QuietHours(uplink.quiet_hours)
    for name in (uplink.password_file, uplink.key_file):
        if name is None:
            continue
        file = secret_path(name, base=base, environ=os.environ)
        if file.stat().st_mode & 0o077:
            yield warning(
                "broker",
                name,
                "others can read this secret",
                where=str(file),
                todo="chmod 600",
            )
    if uplink.ca_file is not None:
        file = secret_path(uplink.ca_file, base=base, environ=os.environ)
        if why := why_untrusted(file):
            yield warning("broker", uplink.ca_file, f"whom to trust is not safe: {why}")
    if broker.username is not None and not broker.tls:
        yield warning(
            "broker",
            str(broker),
            "the password goes over the network in the clear",
            where="uplink.broker",
            todo="mqtts:// or wss://, unless the network is yours alone",
        )


def check_broker(config: Config, uplink: UplinkConfig, *, base: Path) -> Iterator[Finding]:
    """Connect to the broker, and ask for the device's answers.

    Raises:
        ConfigError: the URL or a file is no good.
    """
    broker = Broker.parse(uplink.broker)
    address = Address(config.device.site, config.device.name)
    link = _link(config, uplink, base=base)
    try:
        link.open()
        yield from _greeted(link, str(broker), address, nodes=len(broker.places))
    finally:
        link.close(timeout_s=1.0)


def _link(config: Config, uplink: UplinkConfig, *, base: Path) -> Link:
    """Return the device's link under another name, since the daemon may be connected."""
    name = f"hedge-{config.device.site}-{config.device.name}-check"
    return device_link(uplink, client_id=name, base=base, session_s=0)


def _greeted(link: Link, subject: str, address: Address, *, nodes: int) -> Iterator[Finding]:
    """Follow the link until it stands and has its subscription, or nothing more is to be hoped."""
    until_s = time.monotonic() + _PATIENCE_S
    left = _ATTEMPTS * nodes
    reason = f"no answer within {_PATIENCE_S:g} s"
    protocol = None
    while time.monotonic() < until_s:
        for event in link.poll(0.2):
            match event:
                case Connected():
                    protocol = event.protocol
                    link.subscribe((address.answer,))
                case Disconnected(reason=reason):
                    left -= _cost(reason, nodes=nodes)
                    if left <= 0:
                        yield _not_reached(subject, reason)
                        return
                case Subscribed(refused=refused):
                    yield _reached(subject, protocol, refused)
                    return
    yield _not_reached(subject, reason)


def _cost(reason: str, *, nodes: int) -> int:
    """Return of how many attempts one failure takes the place.

    A refusal is every node's; who cannot be reached or trusted will not be a second later;
    and who hangs up or keeps silent may speak an older protocol.
    """
    if "refuses us" in reason and "protocol" not in reason:
        return _ATTEMPTS * nodes
    settled = ("cannot connect", "not to be trusted", "refuses our side")
    return _ATTEMPTS if any(one in reason for one in settled) else 1


def _reached(subject: str, protocol: str | None, refused: tuple[str, ...]) -> Finding:
    if refused:
        return error(
            "broker",
            subject,
            f"lets us in, but not hear our answers on {refused[0]}",
            todo="allow this device its own topics; docs/brokers.md has the rules",
        )
    return ok("broker", subject, f"lets us in and hear our answers (MQTT {protocol})")


def _not_reached(subject: str, reason: str) -> Finding:
    todo = next((help_ for said, help_ in _REFUSALS.items() if said in reason), None)
    return error("broker", subject, reason, todo=todo)
