"""Traces from a device's capture to the far end and back, told to a real OTLP receiver."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import logging
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.errors import ConfigError, MissingExtraError
from hedge.models.records import Opinion, Sample
from hedge.runtime import cli
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.lane import Waiting
from hedge.runtime.shipped import bundle_path
from hedge.runtime.tracing.device_tracer import DeviceTracer
from hedge.runtime.tracing.far_end_traces import FarEndTraces
from hedge.runtime.tracing.opening import open_tracer, open_traces, read_headers, traces_url
from hedge.runtime.tracing.options import TracesOptions
from hedge.runtime.tracing.otlp import OtlpSpans
from hedge.runtime.tracing.spans import Span
from hedge.runtime.tracing.traceparent import Traceparent
from hedge.telemetry.clock import boottime_ns
from hedge.uplink import wire
from hedge.uplink.asks import Answer, Ask, Contract
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox import stored
from hedge.uplink.outbox.outbox import MemoryOutbox, Record
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

StartBroker = Callable[..., "subprocess.Popen[bytes]"]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]

_NAME = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_SENTINEL = "s3cret-that-nobody-may-see"
_OPINION = Opinion(np.array([0.75, 0.25]), 0.5, "vacuity", vacuity=0.5)


class Told(msgspec.Struct, frozen=True):
    """One span as the receiver got it: ids are bytes, times Unix time in nanoseconds."""

    service: str
    name: str
    kind: int
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    begun_ns: int
    ended_ns: int
    failed: bool
    why: str
    attributes: dict[str, Any]


class Receiver:
    """A collector: OTLP over HTTP, protobuf, as its specification says."""

    def __init__(self, *, status: int = 200, tls: ssl.SSLContext | None = None) -> None:
        self.spans: list[Told] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self._status = status
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self)

            def log_message(self, *_: object) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def take(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Take one request."""
        from opentelemetry.proto.collector.trace.v1 import (  # noqa: PLC0415 -- an extra
            trace_service_pb2,
        )

        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        self.paths.append(handler.path)
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        if self._status == 200:
            for group in request.resource_spans:
                service = _values(group.resource.attributes)["service.name"]
                for scope in group.scope_spans:
                    self.spans.extend(_told(service, span) for span in scope.spans)
        handler.send_response(self._status)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    def named(self, name: str) -> list[Told]:
        """Return the spans of that name."""
        return [span for span in list(self.spans) if span.name == name]

    def close(self) -> None:
        """Stop; what comes is refused by the system from now on."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _values(attributes: Any) -> dict[str, Any]:  # noqa: ANN401 -- protobuf
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


def _told(service: str, span: Any) -> Told:  # noqa: ANN401 -- protobuf
    return Told(
        service,
        span.name,
        span.kind,
        span.trace_id,
        span.span_id,
        span.parent_span_id,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == span.status.STATUS_CODE_ERROR,
        span.status.message,
        _values(span.attributes),
    )


@pytest.fixture
def start_receiver() -> Iterator[Callable[..., Receiver]]:
    """Give `start_receiver(status=…, tls=…)`."""
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    pytest.importorskip("opentelemetry.proto", reason="the extra otel is not installed")
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> Receiver:  # noqa: ANN401 -- the constructor's
            return stack.enter_context(contextlib.closing(Receiver(**options)))

        yield start


class Heard:
    """A `Spans` that keeps what it is told."""

    def __init__(self) -> None:
        self.groups: list[Sequence[Span]] = []

    def tell(self, spans: Sequence[Span]) -> None:
        self.groups.append(list(spans))

    def counters(self) -> dict[str, int]:
        return {}

    def close(self) -> None: ...


# ---- The whole way, as its user has it: commands, a broker, a collector


_CONFIG = """
[device]
name = "traced"
site = "here"
state_dir = "state"
[[stream]]
name = "meter"
bundle = "digits"
answer_within_ms = {within_ms}
source = {{ kind = "replay", path = "rows.npz", rate_hz = {rate_hz} }}
audit = {{ share = 0 }}
[telemetry.traces]
endpoint = "{collector}"
max_per_s = 1000
[[sink]]
kind = "jsonl"
path = "outcomes.jsonl"
"""
_UPLINK = '[uplink]\nbroker = "mqtt://127.0.0.1:{port}"\n'


class Machines:
    """A device and a worker as processes in a folder."""

    def __init__(self, place: Path, stack: contextlib.ExitStack) -> None:
        self._place = place
        self._stack = stack
        rows = np.load(bundle_path("digits").with_name("digits-unseen.npz"))
        few = {name: rows[name][:200] for name in rows.files}
        np.savez(place / "rows.npz", **few)

    def write(self, collector: str, *, port: int | None, within_ms: int, rate_hz: int) -> None:
        """Write the device's configuration."""
        text = _CONFIG.format(collector=collector, within_ms=within_ms, rate_hz=rate_hz)
        more = "" if port is None else _UPLINK.format(port=port)
        (self._place / "device.toml").write_text(text + more)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command, which is killed in the end."""
        command = [sys.executable, "-m", "hedge", *arguments]
        with (self._place / "log").open("ab") as log:
            process = subprocess.Popen(command, cwd=self._place, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def outcomes(self) -> list[dict[str, Any]]:
        """Return what the device has said so far."""
        path = self._place / "outcomes.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def asked(self) -> set[str]:
        """Return the ids of the samples that have an outcome which is not final."""
        return {one["id"] for one in self.outcomes() if not one["final"]}

    def log(self) -> str:
        """Return what they have logged."""
        return (self._place / "log").read_text()


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """Give what runs commands."""
    with contextlib.ExitStack() as stack:
        yield Machines(tmp_path, stack)


def _check_family(answer: Told, spans: Sequence[Told]) -> Told:
    """Check what is above an answer's span; return the sample's."""
    by_id = {(span.trace_id, span.span_id): span for span in spans}
    uplink = by_id[answer.trace_id, answer.parent_id]
    sample = by_id[answer.trace_id, uplink.parent_id]
    assert (answer.service, uplink.service, sample.service) == ("hedge-worker", "hedge", "hedge")
    assert (uplink.name, sample.name, sample.parent_id) == ("uplink", "sample", b"")
    assert sample.begun_ns <= uplink.begun_ns <= uplink.ended_ns <= sample.ended_ns
    assert answer.attributes["hedge.sample.id"] == sample.attributes["hedge.sample.id"]
    (model,) = [one for one in spans if one.parent_id == answer.span_id]
    assert model.name == "model"
    assert answer.begun_ns <= model.begun_ns <= model.ended_ns <= answer.ended_ns
    assert answer.attributes["hedge.queue_s"] >= 0
    assert answer.attributes["hedge.model_s"] > 0
    return sample


def test_a_trace_goes_on_where_its_device_was_killed(
    machines: Machines,
    start_receiver: Callable[..., Receiver],
    start_broker: StartBroker,
    free_port: int,
    eventually: Eventually,
) -> None:
    receiver = start_receiver()
    start_broker("mosquitto", free_port)
    machines.write(receiver.url, port=free_port, within_ms=120_000, rate_hz=400)
    device = machines.start("run", "device.toml")
    eventually(lambda: len(machines.asked()) > 5)
    device.kill()
    device.wait()
    before = machines.asked()
    assert receiver.named("sample") == [], "none had ended"
    broker = f"mqtt://127.0.0.1:{free_port}"
    worker = machines.start("worker", "digits", "--broker", broker, "--traces", receiver.url)
    eventually(lambda: "serving" in machines.log())
    assert machines.start("run", "device.toml").wait(60) == 0, machines.log()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0
    samples = {one.attributes["hedge.sample.id"]: one for one in receiver.named("sample")}
    resumed = {one for one, sample in samples.items() if sample.attributes["hedge.resumed"]}
    assert resumed <= before
    assert len(before - resumed) <= 1, "but that which was not on disk yet"
    assert set(samples) == machines.asked() - (before - resumed)
    answers = receiver.named("answer")
    assert {one.attributes["hedge.sample.id"] for one in answers} == set(samples)
    for answer in answers:
        sample = _check_family(answer, receiver.spans)
        assert sample.attributes["hedge.stream"] == "meter"
        assert sample.attributes["hedge.route"] in {"cloud", "fused"}
        _check_stages(sample, receiver.spans)


def _check_stages(sample: Told, spans: Sequence[Told]) -> None:
    """Check what is below a sample's span: of one that was resumed the uplink alone."""
    below = [one for one in spans if one.parent_id == sample.span_id]
    known = not sample.attributes["hedge.resumed"]
    stages = ["filter", "infer", "uncertainty"] if known else []
    assert [one.name for one in below] == [*stages, "uplink"]
    times = [time for one in below for time in (one.begun_ns, one.ended_ns)]
    assert times == sorted(times), "one after the other"
    assert sample.begun_ns <= times[0]
    assert ("hedge.decision.reason" in sample.attributes) == known


def test_a_device_without_a_broker_tells_why_its_samples_were_not_answered(
    machines: Machines, tmp_path: Path, start_receiver: Callable[..., Receiver]
) -> None:
    receiver = start_receiver()
    machines.write(receiver.url, port=None, within_ms=1000, rate_hz=2000)
    found = serve(load_config(tmp_path / "device.toml", environ={}), base=tmp_path)
    samples = receiver.named("sample")
    assert len(samples) == found.streams[0].routes["escalated"] > 5
    for sample, uplink in zip(samples, receiver.named("uplink"), strict=True):
        assert sample.attributes["hedge.degraded"] == "not_stored"
        assert (uplink.failed, uplink.why) == (True, "not_stored")
        assert not sample.failed, "its user has the edge's answer"
    assert found.counts["traces"] == len(samples)
    assert found.counts["spans_dropped"] == found.counts["spans_failed"] == 0


# ---- Both ends


def test_the_far_end_continues_the_trace_of_its_device(
    broker_kind: str,
    start_receiver: Callable[..., Receiver],
    start_broker: StartBroker,
    free_port: int,
    mqtt_link: Callable[..., MqttLink],
    ask: Callable[..., Ask],
    start_pump: Callable[..., tuple[Pump, threading.Event]],
    start_worker: Callable[..., Worker],
    collect: Collect,
) -> None:
    receiver = start_receiver()
    start_broker(broker_kind, free_port)
    version = {"mosquitto": "5", "amqtt": "3.1.1"}[broker_kind]
    url = f"mqtt://127.0.0.1:{free_port}?version={version}"
    options = TracesOptions(endpoint=receiver.url)
    traces = open_traces(options, worker="w0", version="1")
    worker = start_worker(mqtt_link(url, "worker"), traces=traces)
    tracer = open_tracer(options, device="traced", site="here", version="1")
    pump, bell = start_pump(mqtt_link(url, "device"))
    waiting = {}
    for number in range(5):
        now_ns = boottime_ns()
        one = Waiting(
            Sample("cam", f"7-{number}", now_ns - 5, np.zeros(4, np.float32)),
            _OPINION,
            fuse=False,
            offered_ns=now_ns,
            deadline_ns=now_ns + 10**11,
            traceparent=tracer.begin(),
        )
        waiting[one.sample.id] = one
        sent = ask(one.sample.id, first=number / 8)
        assert pump.offer(msgspec.structs.replace(sent, traceparent=one.traceparent))
    for ask_id in collect(pump, bell, 5):
        tracer.end(
            waiting[ask_id], route="cloud", end="answered", degraded=None, ended_ns=boottime_ns()
        )
    tracer.close()
    worker.stop()
    traces.close()
    answers = receiver.named("answer")
    found = {_check_family(one, receiver.spans).attributes["hedge.sample.id"] for one in answers}
    assert found == set(waiting)
    assert len({one.trace_id for one in answers}) == 5
    assert {one.attributes["messaging.system"] for one in answers} == {"mqtt"}
    assert not any(one.failed for one in receiver.spans)


# ---- The far end


_GARBAGE = (
    *("", "00", "x" * 55, "\U0001f600" * 20, _NAME.upper(), f" {_NAME}", f"{_NAME}\n"),
    _NAME.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
    _NAME.replace("b7ad6b7169203331", "0" * 16),
    *(f"ff{_NAME[2:]}", f"{_NAME}-more", _NAME[:-1]),
)


def test_a_traceparent_that_is_none_costs_no_answer_and_is_counted(
    start_broker: StartBroker,
    free_port: int,
    device: Device,
    mqtt_link: Callable[..., MqttLink],
    start_worker: Callable[..., Worker],
    eventually: Eventually,
) -> None:
    start_broker("mosquitto", free_port)
    url, heard = f"mqtt://127.0.0.1:{free_port}", Heard()
    worker = start_worker(mqtt_link(url, "worker"), traces=FarEndTraces(heard))
    stranger = mqtt_link(url, "stranger")
    stranger.open()
    names = [*_GARBAGE, _NAME, f"{_NAME[:-2]}00", None]
    while stranger.send("hedge/hello", b"") is None:
        stranger.poll(0.05)
    for number, name in enumerate(names):
        request = msgspec.structs.replace(_record(name).request, id=f"7-{number}", shape=(4,))
        body = np.array([0.25, 0, 0, number], "<f4").tobytes()
        stranger.send(device.ask("cam"), wire.encode(msgspec.structs.replace(request, body=body)))

    def all_answered() -> bool:
        stranger.poll(0.01)
        return worker.counters()["answered"] == len(names)

    eventually(all_answered)
    stranger.close(timeout_s=1.0)
    eventually(lambda: len(heard.groups) == 1)
    assert worker.counters()["traceparents_malformed"] == len(_GARBAGE)
    ((answer, model),) = heard.groups
    assert (answer.trace_id, answer.parent_id) == (int(_NAME[3:35], 16), int(_NAME[36:52], 16))
    assert (model.trace_id, model.parent_id) == (answer.trace_id, answer.span_id)
    assert answer.begun_ns <= model.begun_ns < model.ended_ns == answer.ended_ns


def test_a_refusal_is_a_span_that_failed(
    start_broker: StartBroker,
    free_port: int,
    mqtt_link: Callable[..., MqttLink],
    ask: Callable[..., Ask],
    contract: Contract,
    start_pump: Callable[..., tuple[Pump, threading.Event]],
    start_worker: Callable[..., Worker],
    collect: Collect,
    eventually: Eventually,
) -> None:
    start_broker("mosquitto", free_port)
    url, heard = f"mqtt://127.0.0.1:{free_port}", Heard()

    def fail(_: object) -> Any:  # noqa: ANN401 -- it returns nothing
        raise ZeroDivisionError

    broken = Responder(contract=contract, respond=fail)
    start_worker(mqtt_link(url, "worker"), responders=[broken], traces=FarEndTraces(heard))
    pump, bell = start_pump(mqtt_link(url, "device"))
    assert pump.offer(msgspec.structs.replace(ask("7-0"), traceparent=_NAME))
    assert collect(pump, bell, 1)["7-0"].status == "refused"
    eventually(lambda: len(heard.groups) == 1)
    ((answer,),) = heard.groups
    assert answer.error == "the model failed: ZeroDivisionError"


def test_what_goes_in_parts_keeps_its_trace(
    start_broker: StartBroker,
    free_port: int,
    device: Device,
    mqtt_link: Callable[..., MqttLink],
    ask: Callable[..., Ask],
    contract: Contract,
    start_worker: Callable[..., Worker],
    collect: Collect,
    eventually: Eventually,
) -> None:
    start_broker("mosquitto", free_port, "max_packet_size 2000")
    url, heard = f"mqtt://127.0.0.1:{free_port}", Heard()
    long = msgspec.structs.replace(contract, shape=(2000,))

    def respond(batch: Any) -> Any:  # noqa: ANN401 -- arrays
        return np.tile(np.array([0.5, 0.25, 0.25]), (len(batch), 1)), None

    start_worker(
        mqtt_link(url, "worker"),
        responders=[Responder(contract=long, respond=respond)],
        traces=FarEndTraces(heard),
    )
    bell = threading.Event()
    pump = Pump(
        mqtt_link(url, "device"),
        device=device,
        session=7,
        contracts={"cam": long},
        outbox=MemoryOutbox(),
        bell=bell,
    )
    pump.start()
    body = np.random.default_rng(5).normal(size=2000).astype(np.float32)
    assert pump.offer(msgspec.structs.replace(ask("7-0"), body=body, traceparent=_NAME))
    assert collect(pump, bell, 1)["7-0"].status == "answered"
    assert pump.counters()["claims"] == 1
    pump.close(timeout_s=2.0)
    eventually(lambda: len(heard.groups) == 1)
    ((answer, _),) = heard.groups
    assert f"{answer.trace_id:032x}" == _NAME[3:35]


def test_mqtt_5_brokers_see_the_traceparent_beside_the_message(
    start_broker: StartBroker,
    free_port: int,
    device: Device,
    mqtt_link: Callable[..., MqttLink],
    ask: Callable[..., Ask],
    start_pump: Callable[..., tuple[Pump, threading.Event]],
) -> None:
    start_broker("mosquitto", free_port)
    heard: dict[str, MQTTMessage] = {}
    both, ready = threading.Event(), threading.Event()

    def on_message(_: object, __: object, message: MQTTMessage) -> None:
        heard[wire.decode_request(bytes(message.payload)).id] = message
        if len(heard) == 2:
            both.set()

    stranger = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    stranger.on_message = on_message
    stranger.on_subscribe = lambda *_: ready.set()
    stranger.connect("127.0.0.1", free_port)
    stranger.subscribe(device.ask("cam"))
    stranger.loop_start()
    assert ready.wait(30)
    pump, _ = start_pump(mqtt_link(f"mqtt://127.0.0.1:{free_port}", "device"))
    assert pump.offer(msgspec.structs.replace(ask("7-0"), traceparent=_NAME))
    assert pump.offer(ask("7-1"))
    assert both.wait(30)
    stranger.disconnect()
    stranger.loop_stop()
    assert vars(heard["7-0"].properties)["UserProperty"] == [("traceparent", _NAME)]
    assert "UserProperty" not in vars(heard["7-1"].properties)


# ---- The name of a trace, on the wire and on disk


@given(st.integers(1, (1 << 128) - 1), st.integers(1, (1 << 64) - 1), st.booleans())
def test_a_traceparent_is_read_as_it_was_written(
    trace_id: int,
    span_id: int,
    sampled: bool,  # noqa: FBT001 -- hypothesis
) -> None:
    name = Traceparent(trace_id, span_id, sampled)
    assert Traceparent.parse(str(name)) == name
    assert len(str(name)) == 55


@pytest.mark.parametrize("text", _GARBAGE)
def test_what_is_no_traceparent_is_none(text: str) -> None:
    assert Traceparent.parse(text) is None


def test_a_traceparent_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert Traceparent.parse(f"01{_NAME[2:]}-more") == Traceparent.parse(_NAME)


def _record(traceparent: str | None) -> Record:
    request = wire.Request(
        *(1, "3-7", 3, "decide", "steps", "0123456789abcdef", "input", None, "float32", (2,)),
        *("raw", None, np.array([0.5, -2.0], "<f4").tobytes(), traceparent),
    )
    return Record(request=request, stream="cam", classes=3, score=0.5, deadline_ns=9, asked_at_ns=4)


def test_a_stored_ask_keeps_its_trace_and_one_of_an_older_version_has_none() -> None:
    traced = _record(_NAME)
    payload = stored.pack(traced, order=1, ahead_ns=100)
    assert stored.unpack(payload, ahead_ns=100) == traced
    head = payload[: -len(_message(payload))]
    (request, *rest) = msgspec.msgpack.decode(_message(payload))
    assert (len(request), request[-1]) == (14, _NAME)
    older = head + msgspec.msgpack.encode([request[:-1], *rest])
    assert stored.unpack(older, ahead_ns=100) == _record(None)


def _message(payload: bytes) -> bytes:
    """Return what a stored record goes on with after its head and its id."""
    return payload[payload.index(b"3-7") + 3 :]


# ---- How much is traced, and what it is told by


def _waiting(traceparent: str | None) -> Waiting:
    sample = Sample("meter", "3-7", 1_000, np.zeros(2, np.float32))
    return Waiting(
        *(sample, _OPINION, True, 5_000, 9_000),
        traceparent=traceparent,
        reason="epistemic",
        timed_ns=(1_500, 1_500, 3_000, 4_500),
    )


def _tracer(heard: Heard, clock: Callable[[], int] = boottime_ns, **options: Any) -> DeviceTracer:  # noqa: ANN401
    given_ = TracesOptions(endpoint="http://127.0.0.1:1", **options)
    return DeviceTracer(heard, device=Device("here", "traced"), options=given_, clock=clock)


def test_a_sample_is_told_once_it_has_ended_with_the_times_it_had() -> None:
    heard = Heard()
    tracer = _tracer(heard)
    traceparent = tracer.begin()
    assert traceparent is not None
    name = Traceparent.parse(traceparent)
    assert name is not None
    tracer.end(
        _waiting(traceparent), route="edge", end="expired", degraded="deadline", ended_ns=9_500
    )
    ((sample, *_, uplink),) = heard.groups
    assert {span.trace_id for span in heard.groups[0]} == {name.trace_id}
    assert (uplink.span_id, uplink.parent_id) == (name.span_id, sample.span_id)
    assert [(one.name, one.begun_ns, one.ended_ns) for one in heard.groups[0]] == [
        ("sample", 1_000, 9_500),
        ("infer", 1_500, 3_000),
        ("uncertainty", 3_000, 4_500),
        ("uplink", 5_000, 9_500),
    ]
    assert uplink.error == "deadline"
    assert uplink.attributes["messaging.destination.name"] == "hedge/1/here/traced/ask/meter"
    assert sample.attributes == {
        "hedge.stream": "meter",
        "hedge.sample.id": "3-7",
        "hedge.score": 0.5,
        "hedge.score.name": "vacuity",
        "hedge.route": "edge",
        "hedge.end": "expired",
        "hedge.resumed": False,
        "hedge.decision.reason": "epistemic",
        "hedge.degraded": "deadline",
    }


def test_a_sample_without_a_trace_is_not_told_of() -> None:
    heard = Heard()
    _tracer(heard).end(_waiting(None), route="cloud", end="answered", degraded=None, ended_ns=9)
    assert heard.groups == []


def test_no_more_traces_begin_than_the_rate_allows() -> None:
    now_ns = 10**12
    tracer = _tracer(Heard(), lambda: now_ns, max_per_s=4)
    assert sum(tracer.begin() is not None for _ in range(50)) == 4
    now_ns += 2_500_000_000 // 10  # a quarter of a second: one
    assert sum(tracer.begin() is not None for _ in range(50)) == 1
    now_ns += 3600 * 10**9
    assert sum(tracer.begin() is not None for _ in range(50)) == 4
    assert tracer.counters() == {"traces": 9, "traces_skipped": 141}


def test_a_share_of_the_escalated_samples_is_traced() -> None:
    tracers = {share: _tracer(Heard(), share=share, max_per_s=10_000) for share in (0.0, 0.25, 1.0)}
    found = {
        share: sum(tracer.begin() is not None for _ in range(4000))
        for share, tracer in tracers.items()
    }
    assert (found[0.0], found[1.0]) == (0, 4000)
    assert 800 < found[0.25] < 1200, "seven standard deviations"


def _spans(url: str, *, queue: int = 1024) -> OtlpSpans:
    return OtlpSpans(
        traces_url(url),
        headers={"x-key": _SENTINEL},
        ca_file=None,
        resource={"service.name": "test"},
        clock=boottime_ns,
        queue=queue,
    )


def _span(number: int) -> Span:
    now_ns = boottime_ns()
    return Span("sample", "internal", 77, number + 1, None, now_ns - 1000, now_ns, {"n": number})


@pytest.mark.parametrize("collector", ["away", "refuses", "hangs"])
def test_a_collector_that_takes_nothing_stalls_nothing_and_is_told_of_rarely(
    collector: str,
    free_port: int,
    start_receiver: Callable[..., Receiver],
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
) -> None:
    caplog.set_level(logging.INFO)
    with contextlib.ExitStack() as stack:
        url = f"http://127.0.0.1:{free_port}"
        if collector == "refuses":
            url = start_receiver(status=400).url
        elif collector == "hangs":
            ear = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            url = f"http://127.0.0.1:{ear.getsockname()[1]}"
        else:
            pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
        spans = _spans(url, queue=100)
        for number in range(5000):
            spans.tell([_span(number)])
        counts = spans.counters()
        assert counts["spans_dropped"] > 1000, "the queue is bounded"
        if collector == "refuses":
            eventually(lambda: spans.counters()["spans_failed"] >= 100)
        spans.close()
        spans.close()
        spans.tell([_span(1)])
        counts = spans.counters()
        assert counts["spans_sent"] == 0
        assert counts["spans_dropped"] + counts["spans_failed"] <= 5001
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(told) <= 20, [record.getMessage() for record in told]
    assert {record.name for record in told} == {"hedge.runtime.tracing.otlp"}
    assert _SENTINEL not in caplog.text


def test_what_is_told_before_the_end_is_sent_before_the_end(
    start_receiver: Callable[..., Receiver],
) -> None:
    receiver = start_receiver()
    spans = _spans(receiver.url)
    for number in range(200):
        spans.tell([_span(number)])
    spans.close()
    assert [span.attributes["n"] for span in receiver.spans] == list(range(200))
    assert spans.counters() == {"spans_sent": 200, "spans_failed": 0, "spans_dropped": 0}
    assert set(receiver.paths) == {"/v1/traces"}
    assert {one["x-key"] for one in receiver.headers} == {_SENTINEL}


# ---- The configuration


def test_over_tls_a_collector_is_trusted_by_the_file_alone(
    start_receiver: Callable[..., Receiver],
    make_authority: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    ours, others = make_authority("ours"), make_authority("others")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*ours.issue("collector", "127.0.0.1"))
    receiver = start_receiver(tls=context)
    (tmp_path / "headers").write_text(f"# the collector's key\nX-Key: {_SENTINEL}\n")
    counts = {}
    for name, authority in (("ours", ours), ("others", others)):
        tracer = open_tracer(
            TracesOptions(
                endpoint=receiver.url,
                headers_file="headers",
                ca_file=str(authority.file.relative_to(tmp_path)),
            ),
            device="traced",
            site="here",
            version="1",
            base=tmp_path,
        )
        waiting = _waiting(tracer.begin())
        tracer.end(waiting, route="cloud", end="answered", degraded=None, ended_ns=9_500)
        tracer.close()
        counts[name] = tracer.counters()["spans_sent"]
    assert counts == {"ours": 4, "others": 0}
    assert {one["x-key"] for one in receiver.headers} == {_SENTINEL}


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://otel.example/hedge", "https://otel.example/hedge/v1/traces"),
        ("http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/traces"),
    ],
)
def test_the_path_of_otlp_is_put_below_the_endpoint(endpoint: str, url: str) -> None:
    assert traces_url(endpoint) == url


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://", "http://h:0", "http://h:77777"),
        *(f"http://user:{_SENTINEL}@h", f"http://h/?key={_SENTINEL}", "http://h/a b", "http://[1"),
    ],
)
def test_an_endpoint_that_is_none_or_holds_a_secret_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="traces endpoint") as caught:
        traces_url(endpoint)
    assert _SENTINEL not in str(caught.value)


def test_a_line_that_is_no_header_is_named_and_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text(f"authorization: Bearer {_SENTINEL}\n\n{_SENTINEL}\n")
    with pytest.raises(ConfigError, match="headers:3: no header") as caught:
        read_headers(file)
    assert _SENTINEL not in str(caught.value)
    file.write_text(f"Authorization : Bearer {_SENTINEL}\n")
    assert read_headers(file) == {"authorization": f"Bearer {_SENTINEL}"}
    with pytest.raises(ConfigError, match="cannot be read"):
        read_headers(tmp_path / "none")


def test_files_of_traces_that_are_no_good_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for endpoint, ca_file, says in (
        ("http://h", "ca.pem", "need TLS"),
        ("https://h", "ca.pem", "no certificates"),
        ("https://h", "none.pem", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=says):
            open_tracer(
                TracesOptions(endpoint=endpoint, ca_file=ca_file),
                device="d",
                site="s",
                version="1",
                base=tmp_path,
            )


def test_files_for_traces_need_a_collector(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["worker", "digits", "--traces-ca-file", "ca.pem"]) == 2
    assert "give --traces, too" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match=r"hedge-runtime\[otel\]"):
        open_traces(TracesOptions(endpoint="http://127.0.0.1:1"), worker="w", version="1")


def test_who_traces_nothing_loads_nothing_and_sends_nothing_more(tmp_path: Path) -> None:
    code = """
import sys
import hedge.runtime.daemon, hedge.runtime.worker_command
from hedge.runtime.tracing.opening import open_tracer, open_traces
tracer = open_tracer(None, device="d", site="s", version="1")
traces = open_traces(None, worker="w", version="1")
print(tracer.begin(), tracer.counters(), traces.counters())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n") == ["None {} {}", "[]", ""]
    request = _record(None).request
    traced = _record(_NAME).request
    assert wire.encode(request).endswith(b"\xc0"), "one byte says that there is none"
    assert len(wire.encode(traced)) - len(wire.encode(request)) == 56
