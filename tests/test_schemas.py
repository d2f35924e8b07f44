"""The documents for others: schemas, AsyncAPI and its examples, against what is really said.

`python tests/test_schemas.py` writes the schemas anew.
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
from msgspec import Struct

from hedge.models.records import Opinion, Outcome
from hedge.runtime.events.event import Clip
from hedge.runtime.events.event import Event as Told
from hedge.runtime.sinks.mqtt import MqttSink
from hedge.runtime.sinks.sink import Line
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.ledger import Ledger
from hedge.telemetry.snapshot import Snapshot
from hedge.uplink import wire
from hedge.uplink.asks import Ask, Contract
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.link import Connected, Event, Received, Subscribed
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.publishers.labels import Label
from hedge.uplink.publishers.outcomes import OutcomePublisher
from hedge.uplink.publishers.presence import Status
from hedge.uplink.publishers.spool import Spool
from hedge.uplink.publishers.telemetry_topic import TelemetryTopic
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

DOCS = Path(__file__).parents[1] / "docs"
MESSAGES: dict[str, type[Struct]] = {
    "answer": wire.Reply,
    "ask": wire.Request,
    "event": Told,
    "label": Label,
    "notice": wire.Notice,
    "outcome": Line,
    "part": wire.Part,
    "status": Status,
    "telemetry": Snapshot,
}
TOLD_BY_OTHERS = ("label",)
PACKED = ("answer", "ask", "notice", "part")  # MessagePack; the others are JSON
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def path_of(name: str) -> Path:
    """Return where a message's schema lies."""
    return DOCS / "schema" / f"{name}.schema.json"


def schema_of(name: str) -> dict[str, Any]:
    """Return the schema of a message, made from its record."""
    (made,), definitions = msgspec.json.schema_components([MESSAGES[name]])
    records = {one.__name__: one for one in _records(MESSAGES[name])}
    for title, definition in definitions.items():
        definition["description"] = _markdown(records[title])
        positions = definition.get("prefixItems", ())
        for field, position in zip(msgspec.structs.fields(records[title]), positions, strict=False):
            position["title"] = field.name
    whole = {"$schema": DIALECT, **made, "$defs": definitions}
    text = json.dumps(whole).replace("#/components/schemas/", "#/$defs/").replace("\\\\Z", "$")
    return cast("dict[str, Any]", json.loads(text))


def _records(kind: type[Struct]) -> list[type[Struct]]:
    """Return a record and those that it holds."""
    found: list[type[Struct]] = []

    def visit(one: Any) -> None:  # noqa: ANN401 -- whatever msgspec knows of types
        match one:
            case msgspec.inspect.StructType(cls=cls, fields=fields):
                found.append(cls)
                for field in fields:
                    visit(field.type)
            case msgspec.inspect.UnionType(types=types):
                for each in types:
                    visit(each)
            case msgspec.inspect.DictType(value_type=value):
                visit(value)
            case msgspec.inspect.VarTupleType(item_type=item):
                visit(item)
            case msgspec.inspect.Metadata(type=inner):
                visit(inner)

    visit(msgspec.inspect.type_info(kind))
    return found


def _markdown(record: type[Struct]) -> str:
    return " ".join((inspect.getdoc(record) or "").split()).replace("``", "`")


def text_of(name: str) -> str:
    """Return the schema's file."""
    return json.dumps(schema_of(name), indent=2) + "\n"


def problems(name: str, message: Any) -> list[str]:  # noqa: ANN401 -- what JSON can hold
    """Return in what a message, as JSON holds it, does not fit its schema."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the documents")
    validator = jsonschema.Draft202012Validator(json.loads(path_of(name).read_text("utf-8")))
    return [error.message for error in validator.iter_errors(message)]


def unknown(name: str, message: Any) -> set[str]:  # noqa: ANN401 -- what JSON can hold
    """Return the members of a message of which its schema does not tell."""
    if not isinstance(message, dict):
        return set()
    schema = json.loads(path_of(name).read_text("utf-8"))
    return set(message) - set(schema["$defs"][MESSAGES[name].__name__]["properties"])


def as_json(value: Any) -> Any:  # noqa: ANN401 -- what MessagePack can hold
    """Return a MessagePack message as the documents show it: bytes in base64."""
    match value:
        case bytes():
            return base64.b64encode(value).decode()
        case list():
            return [as_json(one) for one in value]
    return value


@pytest.fixture
def document() -> dict[str, Any]:
    """Give the AsyncAPI document."""
    yaml = pytest.importorskip("yaml", reason="pyyaml reads the AsyncAPI document")
    read: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text("utf-8"))
    return read


def examples(document: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield every example with its message's name."""
    for name, message in document["components"]["messages"].items():
        assert message["examples"], name
        for example in message["examples"]:
            yield name, example["payload"]


def resolved(document: dict[str, Any], reference: str) -> Any:  # noqa: ANN401 -- what YAML can hold
    """Return what a reference within the document leads to."""
    place: Any = document
    for step in reference.removeprefix("#/").split("/"):
        place = place[step]
    return place


def references(value: Any) -> Iterator[str]:  # noqa: ANN401 -- what YAML can hold
    """Yield every reference of the document."""
    match value:
        case {"$ref": str(reference)}:
            yield reference
        case dict():
            for one in value.values():
                yield from references(one)
        case list():
            for one in value:
                yield from references(one)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_schemas_are_those_of_the_records_in_the_code(name: str) -> None:
    assert path_of(name).read_text("utf-8") == text_of(name), "run: python tests/test_schemas.py"


def test_there_is_a_schema_for_every_message_and_no_other(document: dict[str, Any]) -> None:
    assert {path.name for path in (DOCS / "schema").iterdir()} == {
        path_of(name).name for name in MESSAGES
    }
    messages = document["components"]["messages"]
    assert {name: one["payload"]["schema"]["$ref"] for name, one in messages.items()} == {
        name: f"schema/{name}.schema.json" for name in MESSAGES
    }
    packed = {name for name, one in messages.items() if "msgpack" in one["contentType"]}
    assert packed == set(PACKED)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_schemas_are_valid_in_their_dialect(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the documents")
    jsonschema.Draft202012Validator.check_schema(json.loads(path_of(name).read_text("utf-8")))


def test_every_example_fits_its_schema_and_is_read_by_the_code(document: dict[str, Any]) -> None:
    for name, payload in examples(document):
        assert problems(name, payload) == []
        assert unknown(name, payload) == set()
        record = msgspec.convert(json.loads(json.dumps(payload)), MESSAGES[name])
        if name in PACKED:
            packed = msgspec.msgpack.encode(record)
            reader = getattr(
                wire,
                {"ask": "decode_request", "answer": "decode_reply"}.get(name, f"decode_{name}"),
            )
            assert reader(packed) == record
        assert json.loads(msgspec.json.encode(record)) == payload, "nothing is passed over"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("status", {"state": "asleep", "session": 3}),
        ("status", {"state": "online"}),
        ("outcome", {"stream": "meter", "id": "3-1", "final": True}),
        ("event", {"event": "person", "stream": "cam", "id": "3-e1", "state": "ended"}),
        ("part", [1, "3-1", 3, 0, 2]),
        ("answer", [1, "3 1", 3, "0" * 16, "ok", None, "", None, 1.0]),
    ],
)
def test_a_schema_refuses_what_is_no_such_message(name: str, wrong: object) -> None:
    assert problems(name, wrong) != []


def test_the_channels_are_the_topics_of_the_code(document: dict[str, Any]) -> None:
    names = {"site": "s0", "device": "d0", "stream": "m0", "worker": "w0"}
    device = Device(names["site"], names["device"])
    topics = {}
    for name in vars(Device):
        if name.startswith("_") or name in Device.__struct_fields__:
            continue
        one = getattr(device, name)
        last = "worker" if name == "part" else "stream"
        topics[name] = one(names[last]) if callable(one) else one
    assert topics == {
        key: channel["address"].format(**names) for key, channel in document["channels"].items()
    }
    for key, channel in document["channels"].items():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"]), key


def test_every_channel_has_its_operation_and_every_reference_leads_somewhere(
    document: dict[str, Any],
) -> None:
    used = {one["channel"]["$ref"] for one in document["operations"].values()}
    assert used == {f"#/channels/{key}" for key in document["channels"]}
    assert {one["action"] for one in document["operations"].values()} == {"send", "receive"}
    for reference in references(document):
        if reference.startswith("#/"):
            resolved(document, reference)
        else:
            assert (DOCS / reference).is_file()


def test_the_document_is_valid_asyncapi(document: dict[str, Any]) -> None:
    place = os.environ.get("HEDGE_ASYNCAPI")
    if place is None:
        pytest.skip("HEDGE_ASYNCAPI names no schemas/3.0.0-without-$id.json of @asyncapi/specs")
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema checks the documents")
    validator = jsonschema.Draft7Validator(json.loads(Path(place).read_text("utf-8")))
    assert [error.message for error in validator.iter_errors(document)] == []
    document["channels"]["ask"]["adress"] = document["channels"]["ask"].pop("address")
    assert not validator.is_valid(document), "or else the check would be none"


class Listener:
    """Hears all that is said on a device's topics, and may say something itself."""

    def __init__(self, link: MqttLink, device: Device) -> None:
        self.link = link
        self._root = f"hedge/1/{device.site}/{device.name}/"
        self._subscribed = False
        self.heard: list[tuple[str, bytes]] = []
        link.open()
        self.listen(lambda: self._subscribed)

    def said(self, name: str) -> list[bytes]:
        """Return what was said on a channel."""
        return [payload for channel, payload in self.heard if channel == name]

    def listen(self, enough: Callable[[], bool]) -> None:
        """Listen until it is enough."""
        until_s = time.monotonic() + 30.0
        while not enough():
            assert time.monotonic() < until_s, {channel for channel, _ in self.heard}
            for event in self.link.poll(0.05):
                self._handle(event)

    def _handle(self, event: Event) -> None:
        match event:
            case Connected():
                self.link.subscribe((f"{self._root}#",))
            case Subscribed(refused=refused):
                self._subscribed = not refused
            case Received(topic=topic, payload=payload, token=token):
                channel, *more = topic.removeprefix(self._root).split("/")
                self.heard.append(("notice" if more[1:] == ["parts"] else channel, payload))
                if token is not None:
                    self.link.ack(token)


def outcome(number: int, **changes: Any) -> Outcome:  # noqa: ANN401 -- the record's fields
    """Return an outcome."""
    probs = np.array([0.1, 0.2, 0.7], np.float32)
    sound = Outcome("cam", f"3-{number}", "edge", 2, probs, Opinion(probs, 0.5, "vacuity"), True)
    return msgspec.structs.replace(sound, **changes)


def outcomes() -> list[Outcome]:
    """Return an outcome of every sort."""
    return [
        outcome(0, reason="sure"),
        outcome(1, final=False, reason="unsure"),
        outcome(2, route="cloud"),
        outcome(3, route="dropped", label=None, probs=None, opinion=None, reason="filter"),
        outcome(4, degraded="deadline", label=None, probs=None),
        outcome(5, final=False, route="cloud", opinion=None, reason="late"),
    ]


def events() -> list[Told]:
    """Return an event when it opens, when it closes, and when its clip is kept."""
    opened = Told(
        event="person",
        stream="cam",
        id="3-e1",
        state="opened",
        label="c",
        opened_at_s=5.5,
        samples=("3-1", "3-2"),
        count=2,
        peak=0.75,
    )
    closed = msgspec.structs.replace(opened, state="closed", closed_at_s=9.25, why="quiet")
    clip = Clip(path="clips/3-e1.mp4", bytes=70_000)
    return [opened, closed, msgspec.structs.replace(closed, state="clip", clip=clip)]


def telemetry(pump: Pump) -> Snapshot:
    """Return a record."""
    ledger = Ledger("cam")
    ledger.first["accepted"].record(5)
    return Snapshot(
        session=3,
        uptime_s=0.5,
        streams={"cam": ledger.report()},
        uplink=pump.counters(),
        counts={"late_answer": 1},
        rss_bytes=1,
    )


def ask_of(stream: str, size: int) -> Ask:
    """Return an ask about ``size`` numbers that no codec could shorten much."""
    now_ns = boottime_ns()
    return Ask(
        id=f"3-{size}",
        stream=stream,
        kind="decide",
        entry="input",
        body=np.random.default_rng(1).normal(size=size).astype(np.float32),
        opinion=Opinion(np.array([0.5, 0.25, 0.25]), 0.5, "vacuity", vacuity=0.5),
        asked_at_ns=now_ns,
        deadline_ns=now_ns + 60 * 10**9,
    )


def test_what_a_device_and_a_worker_really_say_fits_the_schemas(
    device: Device,
    start_broker: Callable[..., object],
    free_port: int,
    mqtt_link: Callable[..., MqttLink],
    contract: Contract,
    responder: Responder,
    start_worker: Callable[..., Worker],
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    start_broker("mosquitto", free_port, "max_packet_size 2400")
    url = f"mqtt://127.0.0.1:{free_port}"
    listener = Listener(mqtt_link(url, "listener"), device)
    large = msgspec.structs.replace(contract, digest="1" * 16, shape=(1000,))
    wide = Responder(contract=large, respond=responder.respond)
    start_worker(mqtt_link(url, "worker"), responders=[responder, wide])
    link = mqtt_link(url, "device")
    publisher = OutcomePublisher(device, spool=Spool(None), wake=link.wake)
    sink = MqttSink(publisher, labels={"cam": ("a", "b", "c")}, which="all")
    topic = TelemetryTopic(device, wake=link.wake)
    pump = Pump(
        link,
        device=device,
        session=3,
        contracts={"cam": contract, "door": large},
        outbox=MemoryOutbox(),
        bell=threading.Event(),
        publishers=[publisher, topic],
    )
    pump.start()
    eventually(lambda: pump.connected)
    for ask in (ask_of("cam", 4), ask_of("door", 1000)):
        assert pump.offer(ask)
    for one in outcomes():
        sink.emit(one)
    for event in events():
        sink.tell(event)
    topic.offer(telemetry(pump))

    def everything() -> bool:
        pump.check()
        return (
            {name for name, _ in listener.heard} == set(MESSAGES) - set(TOLD_BY_OTHERS)
            and len(listener.said("outcome")) >= len(outcomes())
            and len(listener.said("event")) >= len(events())
            and len(listener.said("answer")) >= 3
        )

    listener.listen(everything)
    pump.close(timeout_s=5.0)
    listener.listen(lambda: b"offline" in listener.said("status")[-1])
    listener.link.close(timeout_s=1.0)
    states = [json.loads(payload)["state"] for payload in listener.said("status")]
    assert (states[0], states[-1]) == ("online", "offline")
    for name, payload in listener.heard:
        packed = name in PACKED
        message = as_json(msgspec.msgpack.decode(payload)) if packed else json.loads(payload)
        assert problems(name, message) == []
        assert unknown(name, message) == set()


if __name__ == "__main__":
    for each in MESSAGES:
        path_of(each).write_text(text_of(each), "utf-8")
