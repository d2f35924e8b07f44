"""`hedge worker`: answer devices with the cloud models of bundles."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import sys
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..models.bundle import Bundle, load_bundle
from ..models.errors import BundleError
from ..models.opinion import Assessor
from ..models.prepare import preparer
from ..models.records import Probs
from ..uplink.link import KEEPALIVE_S
from ..uplink.probe import Verdict
from ..uplink.worker import Responder, Worker
from .backends import open_model
from .far_end import contract_of, link_to
from .notify import Notifier
from .shipped import bundle_path
from .signals import stopped_by_signals


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "worker",
        help="answer devices with the cloud models of bundles",
        description="Answer what devices ask over MQTT with the cloud models of one or more "
        "bundles, until SIGTERM or Ctrl-C. Workers of one group share the load.",
    )
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE")
    parser.add_argument(
        "--broker", default="mqtt://127.0.0.1:1883", metavar="URL", help="the MQTT broker"
    )
    parser.add_argument(
        "--group", default="workers", type=_name, help="the group that shares the load"
    )
    parser.add_argument(
        "--shard",
        type=_shard,
        default=(0, 1),
        metavar="I/N",
        help="where the broker has no shared subscriptions: be worker I (from 0) of N",
    )
    parser.add_argument(
        "--name", type=_name, default=_own_name(), help="its own (default: host and process)"
    )
    parser.add_argument("--password-file", type=Path, metavar="PATH")
    parser.add_argument("--ca-file", type=Path, metavar="PATH", help="whom mqtts:// trusts")
    parser.add_argument("--cert-file", type=Path, metavar="PATH", help="its own certificate")
    parser.add_argument("--key-file", type=Path, metavar="PATH", help="the certificate's key")
    parser.add_argument(
        "--keepalive-s",
        type=_seconds,
        default=KEEPALIVE_S,
        metavar="S",
        help="after as long without a word the broker is asked whether it is there",
    )
    parser.add_argument(
        "--max-packet-bytes",
        type=_packet,
        metavar="N",
        help="what an MQTT 3.1.1 broker takes, which cannot say so itself",
    )
    parser.add_argument("--threads", type=_threads, default=1, help="threads of the model library")
    parser.set_defaults(run=run)


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name of a-z, 0-9, _ and -")
    return text


def _shard(text: str) -> tuple[int, int]:
    place, _, count = text.partition("/")
    if not (place.isdigit() and count.isdigit() and int(place) < int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N-1")
    return int(place), int(count)


def run(options: argparse.Namespace) -> int:
    """Serve until stopped; return the exit code."""
    with contextlib.ExitStack() as stack:
        notifier = Notifier()
        stack.callback(notifier.close)
        responders = [
            _responder(load_bundle(bundle_path(name)), threads=options.threads, stack=stack)
            for name in options.bundles
        ]
        link = link_to(
            options.broker,
            client_id=f"hedge-worker-{options.name}",
            password_file=options.password_file,
            ca_file=options.ca_file,
            cert_file=options.cert_file,
            key_file=options.key_file,
            max_packet_bytes=options.max_packet_bytes,
            keepalive_s=options.keepalive_s,
        )
        worker = Worker(
            link,
            name=options.name,
            responders=responders,
            group=options.group,
            shard=options.shard,
            on_serving=lambda how: _serving(notifier, how, options.shard),
        )
        stack.enter_context(stopped_by_signals(worker.stop))
        notifier.send("READY=1")
        worker.run()
    return 0


def _serving(notifier: Notifier, how: Verdict, shard: tuple[int, int]) -> None:
    """Say that asks can come, and how."""
    notifier.send(f"STATUS=serving, {how} subscription")
    print(f"serving, {how} subscription", file=sys.stderr, flush=True)
    if how == "plain" and shard[1] == 1:
        print(
            "this broker shares no subscriptions: of several workers each needs its --shard I/N",
            file=sys.stderr,
            flush=True,
        )


def _threads(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 256):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 256")
    return int(text)


def _seconds(text: str) -> int:
    if not (text.isdigit() and 1 <= int(text) <= 65_535):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 65535")
    return int(text)


def _packet(text: str) -> int:
    if not (text.isdigit() and 1024 <= int(text) <= 268_435_455):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1024 to 268435455")
    return int(text)


def _own_name() -> str:
    """Return a name for this process: a worker's must be its own, or the broker parts the two."""
    host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower())[:40]
    return f"{host}-{os.getpid()}"


def _responder(bundle: Bundle, *, threads: int, stack: contextlib.ExitStack) -> Responder:
    """Open a bundle's cloud model and return the function that answers with it."""
    cloud = bundle.manifest.cloud
    if cloud is None:
        raise BundleError("has no cloud model", where=str(bundle.path))
    where = f"{bundle.path}/{cloud.file}"
    model = open_model(bundle.read(cloud.file), format=cloud.format, where=where, threads=threads)
    stack.callback(model.close)
    prepare = preparer(bundle.input)
    assessor = Assessor.of(cloud, classes=len(bundle.labels))

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        opinions = assessor.assess_batch(model.infer(prepare(batch)))
        return opinions.probs, opinions.alpha

    return Responder(contract=contract_of(bundle), respond=respond)
