"""Models on a server: a real MLServer over HTTP and gRPC, and servers that misbehave."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.bundle import load_bundle
from hedge.models.dataset import load_dataset
from hedge.models.errors import ConfigError, ModelAwayError, ModelError
from hedge.runtime.open_inference import over_http
from hedge.runtime.open_inference.address import Address
from hedge.runtime.open_inference.messages import message_classes
from hedge.runtime.open_inference.served_model import connect
from hedge.runtime.shipped import bundle_path
from hedge.runtime.worker_models import Servers, open_responders
from hedge.uplink.asks import Answer, Ask
from hedge.uplink.far_end.responder import Responder
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window
from hedge.uplink.topics import Device

MakeLink = Callable[..., MqttLink]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
StartWorker = Callable[..., Worker]
MakeAsk = Callable[..., Ask]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]

DIGITS = bundle_path("digits")
BREAKS, HANGS = 99, 98  # what the runtime in mlserver_runtime.py does at a first number of these
TENSOR = {"name": "x", "datatype": "UINT8", "shape": [-1, 64]}
LOGITS = {"name": "logits", "datatype": "FP32", "shape": [-1, 10]}
MODELS: dict[str, dict[str, Any]] = {
    "digits": {"inputs": [TENSOR], "outputs": [LOGITS]},
    "silent": {},
    "single": {"inputs": [TENSOR | {"shape": [1, 64]}], "outputs": [LOGITS | {"shape": [1, 10]}]},
    "wide": {"inputs": [TENSOR | {"shape": [-1, 128]}], "outputs": [LOGITS]},
    "float": {"inputs": [TENSOR | {"datatype": "FP32"}], "outputs": [LOGITS]},
    "few": {"inputs": [TENSOR], "outputs": [LOGITS | {"shape": [-1, 9]}]},
    "fixed": {"inputs": [TENSOR | {"shape": [8, 64]}], "outputs": [LOGITS]},
    "two": {
        "inputs": [TENSOR | {"name": "left"}, TENSOR | {"name": "right"}],
        "outputs": [LOGITS],
    },
    "renamed": {"inputs": [TENSOR], "outputs": [LOGITS | {"name": "scores"}]},
}


def _mlserver() -> str:
    """Return MLServer's command, which lives apart: it pins what others need newer."""
    beside = Path(sys.prefix) / "mlserver" / "bin" / "mlserver"
    found = os.environ.get("HEDGE_MLSERVER") or (
        str(beside) if beside.exists() else shutil.which("mlserver")
    )
    if found is None:
        pytest.skip("MLServer is not installed (make modelserver, or HEDGE_MLSERVER=its command)")
    return found


class ModelServer:
    """An MLServer of all `MODELS` as a process, which can be killed and come again."""

    def __init__(self, folder: Path, *, http: int, grpc: int) -> None:
        self._command = [_mlserver(), "start", str(folder)]
        self._folder = folder
        self._http = http
        self._grpc = grpc
        self._process: subprocess.Popen[bytes] | None = None
        settings = {"host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "debug": False}
        more = {"metrics_endpoint": None, "parallel_workers": 0}
        (folder / "settings.json").write_text(json.dumps(settings | more))
        for name, described in MODELS.items():
            (folder / name).mkdir()
            model = {
                "name": name,
                "implementation": "mlserver_runtime.OnnxRuntime",
                "parameters": {"uri": str(DIGITS / "cloud.onnx")},
            }
            (folder / name / "model-settings.json").write_text(json.dumps(model | described))

    def url(self, protocol: str, model: str = "digits") -> str:
        """Return the URL of a model."""
        port = self._grpc if protocol == "grpc" else self._http
        return f"{protocol}://127.0.0.1:{port}/{model}"

    def start(self) -> None:
        """Start it and return when all models are ready."""
        here = {**os.environ, "PYTHONPATH": str(self._folder)}
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                self._command, env=here, cwd=self._folder, stdout=log, stderr=log
            )
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s and self._process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"http://127.0.0.1:{self._http}/v2/health/ready", timeout=1),
            ):
                return
            time.sleep(0.1)
        raise RuntimeError((self._folder / "log").read_text()[-2000:])

    def kill(self) -> None:
        """Kill it, if it runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@pytest.fixture(scope="module")
def model_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """Give a running MLServer, started once: it takes seconds."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copy(Path(__file__).with_name("mlserver_runtime.py"), folder)
    ports = [_free_port(), _free_port()]
    server = ModelServer(folder, http=ports[0], grpc=ports[1])
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    """Give each protocol in turn; gRPC is an extra."""
    if request.param == "grpc":
        pytest.importorskip("grpc", reason="the extra oip is not installed")
    return str(request.param)


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    """Give what closes what a test opens."""
    with contextlib.ExitStack() as closing:
        yield closing


@pytest.fixture
def served(stack: contextlib.ExitStack) -> Callable[..., Responder]:
    """Give `served(url, timeout_s=…, ca_file=…)`: the responder of digits there; None: here."""

    def make(url: str | None, *, timeout_s: float = 10.0, ca_file: Path | None = None) -> Responder:
        addresses = {} if url is None else {"digits": Address.parse(url)}
        servers = Servers(addresses=addresses, timeout_s=timeout_s, ca_file=ca_file)
        (found,) = open_responders(["digits"], servers=servers, threads=1, stack=stack)
        return found

    return make


def _check(responder: Responder) -> None:
    assert responder.check is not None
    responder.check()


def _rows(count: int) -> Any:  # noqa: ANN401 -- an array
    return load_dataset(DIGITS.with_name("digits-unseen.npz")).x[:count]


# ---- A real MLServer


@pytest.mark.parametrize("model", ["digits", "silent", "single"])
def test_a_served_model_answers_exactly_as_the_bundles_own_does(
    model: str, protocol: str, model_server: ModelServer, served: Callable[..., Responder]
) -> None:
    there, here = served(model_server.url(protocol, model)), served(None)
    _check(there)
    for count in (1, 32):
        given, alpha = there.respond(_rows(count))
        wanted, _ = here.respond(_rows(count))
        assert alpha is None
        np.testing.assert_array_equal(given, wanted)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("wide", r"its input 'x' is UINT8 \[-1, 128\], but the bundle's is UINT8 \[-1, 64\]"),
        ("float", r"its input 'x' is FP32"),
        ("few", r"its output 'logits' is FP32 \[-1, 9\], but the bundle's is FP32 \[-1, 10\]"),
        ("fixed", r"its input 'x' is UINT8 \[8, 64\]"),
        ("two", r"has 2 inputs \(left, right\), none of them 'x'"),
        ("renamed", r"answers without the output 'scores'"),
    ],
)
def test_a_server_with_another_model_is_told_from_one_that_is_away(
    model: str,
    says: str,
    protocol: str,
    model_server: ModelServer,
    served: Callable[..., Responder],
) -> None:
    with pytest.raises(ModelError, match=says) as caught:
        _check(served(model_server.url(protocol, model)))
    assert not isinstance(caught.value, ModelAwayError)
    assert model in str(caught.value)


def test_a_model_that_is_not_there_is_away(
    protocol: str, model_server: ModelServer, served: Callable[..., Responder]
) -> None:
    with pytest.raises(ModelAwayError, match="none"):
        _check(served(model_server.url(protocol, "none")))
    with pytest.raises(ModelAwayError, match="cannot be reached"):
        _check(served(f"{protocol}://127.0.0.1:{_free_port()}/digits"))


def test_a_model_that_breaks_has_failed_and_one_that_hangs_is_away(
    protocol: str, model_server: ModelServer, served: Callable[..., Responder]
) -> None:
    there = served(model_server.url(protocol), timeout_s=1.0)
    _check(there)
    batch = _rows(1).copy()
    batch[0, 0] = BREAKS
    with pytest.raises(ModelError, match=r"answers (500|INTERNAL)") as caught:
        there.respond(batch)
    assert not isinstance(caught.value, ModelAwayError)
    batch[0, 0] = HANGS
    with pytest.raises(ModelAwayError, match="cannot be reached"):
        there.respond(batch)
    _check(there)


def test_a_server_that_is_killed_in_mid_run_delays_and_loses_nothing(
    protocol: str,
    model_server: ModelServer,
    served: Callable[..., Responder],
    free_port: int,
    start_broker: StartBroker,
    mqtt_link: MakeLink,
    start_worker: StartWorker,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
    stack: contextlib.ExitStack,
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    there, here = served(model_server.url(protocol)), served(None)
    worker = start_worker(mqtt_link(url, "w"), responders=[there])
    bell = threading.Event()
    pump = Pump(
        mqtt_link(url, device.name),
        device=device,
        session=7,
        contracts={"cam": there.contract},
        outbox=MemoryOutbox(),
        bell=bell,
        window=Window(lease_s=1.0),
    )
    pump.start()
    stack.callback(pump.close, timeout_s=1.0)
    rows = _rows(90)
    asks = [
        msgspec.structs.replace(ask(f"7-{number}"), body=row) for number, row in enumerate(rows)
    ]
    for one in asks[:30]:
        assert pump.offer(one)
    answers = collect(pump, bell, 30)
    model_server.kill()
    for one in asks[30:60]:
        assert pump.offer(one)
    eventually(lambda: worker.serving is None)
    assert pump.answers() == []
    model_server.start()
    eventually(lambda: worker.serving == "shared")
    for one in asks[60:]:
        assert pump.offer(one)
    answers |= collect(pump, bell, 60)
    assert {answer.status for answer in answers.values()} == {"answered"}
    wanted, _ = here.respond(rows)
    given = [answers[f"7-{number}"].probs for number in range(90)]
    np.testing.assert_array_equal(np.array(given), wanted.astype(np.float32))
    assert (worker.counters()["away"], worker.counters()["errors"]) == (1, 0)


def test_one_worker_serves_a_bundle_here_and_another_on_a_server(
    protocol: str,
    model_server: ModelServer,
    bundle_dir: Path,
    free_port: int,
    start_broker: StartBroker,
    mqtt_link: MakeLink,
    start_worker: StartWorker,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
    stack: contextlib.ExitStack,
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    names = ["digits", str(bundle_dir)]
    servers = Servers.parse(
        [("digits", Address.parse(model_server.url(protocol)))],
        bundles=names,
        timeout_s=10,
        ca_file=None,
    )
    digits, steps = open_responders(names, servers=servers, threads=1, stack=stack)
    worker = start_worker(mqtt_link(url, "w"), responders=[digits, steps])
    bell = threading.Event()
    pump = Pump(
        mqtt_link(url, device.name),
        device=device,
        session=7,
        contracts={"cam": steps.contract, "digits": digits.contract},
        outbox=MemoryOutbox(),
        bell=bell,
    )
    pump.start()
    stack.callback(pump.close, timeout_s=1.0)
    row = _rows(1)[0]
    for number in range(20):
        assert pump.offer(ask(f"7-{number}"))
        assert pump.offer(msgspec.structs.replace(ask(f"8-{number}"), stream="digits", body=row))
    answers = collect(pump, bell, 40)
    shapes = {
        one: answer.probs.shape for one, answer in answers.items() if answer.probs is not None
    }
    assert shapes == {f"7-{n}": (3,) for n in range(20)} | {f"8-{n}": (10,) for n in range(20)}
    assert worker.counters()["answered"] == 40


# ---- Servers that misbehave, and addresses


class Stub(HTTPServer):
    """A server that gives one answer to everything."""

    def __init__(self, body: bytes, *, status: int = 200, endless: bool = False) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                if not endless:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)
                    while endless:
                        self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 -- the base's name for it

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def place(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.server_address[1]}"


@contextlib.contextmanager
def serving(stub: Stub) -> Iterator[Stub]:
    """Serve in a thread."""
    thread = threading.Thread(target=stub.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield stub
    finally:
        stub.shutdown()
        thread.join()
        stub.server_close()


def _output(**changes: Any) -> bytes:  # noqa: ANN401 -- JSON
    row = {"name": "logits", "datatype": "FP32", "shape": [1, 10], "data": [0.5] * 10}
    return json.dumps({"outputs": [row | changes]}).encode()


@pytest.mark.parametrize(
    ("body", "status", "error", "says"),
    [
        (b"<html>", 200, ModelError, "answers no such JSON"),
        (b'{"outputs": []}', 200, ModelError, "answers without the output"),
        (_output(data=[None] * 10), 200, ModelError, "is nan"),
        (_output(data=["x"] * 10), 200, ModelError, "no numbers"),
        (_output(data=[0.5] * 9), 200, ModelError, "answers 9 numbers"),
        (_output(shape=[10, -1, -1]), 200, ModelError, "answers 10 numbers"),
        (_output(datatype="BYTES"), 200, ModelError, "answers in 'BYTES'"),
        (_output(shape=[10]), 200, ModelError, r"answers float32 \(10,\)"),
        (_output(datatype="INT16", data=[1] * 10), 200, ModelError, "answers int16"),
        (b"\x00\xff" * 99, 500, ModelError, "answers 500"),
        (b"later", 503, ModelAwayError, "503: later"),
        (b"who are you?", 401, ModelAwayError, "401: who are you"),
    ],
)
def test_an_answer_that_makes_no_sense_is_an_error_that_says_so(
    body: bytes,
    status: int,
    error: type[ModelError],
    says: str,
    served: Callable[..., Responder],
) -> None:
    with serving(Stub(body, status=status)) as stub:
        there = served(f"http://{stub.place}/digits")
        with pytest.raises(error, match=says) as caught:
            there.respond(_rows(1))
        assert type(caught.value) is error


def test_an_answer_without_an_end_is_cut_off(
    served: Callable[..., Responder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_http, "MAX_RESPONSE_BYTES", 1 << 20)
    with (
        serving(Stub(b"x" * 4096, endless=True)) as stub,
        pytest.raises(ModelError, match="more than 1048576 bytes"),
    ):
        served(f"http://{stub.place}/digits").respond(_rows(1))


def test_a_server_is_trusted_by_its_certificate_only(
    make_authority: Callable[..., Any], served: Callable[..., Responder]
) -> None:
    known, other = make_authority("known"), make_authority("other")
    certificate, key = known.issue("server", "127.0.0.1")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    stub = Stub(_output())
    stub.socket = context.wrap_socket(stub.socket, server_side=True)
    with serving(stub):
        url = f"https://{stub.place}/digits"
        probs, _ = served(url, ca_file=known.file).respond(_rows(1))
        assert probs.shape == (1, 10)
        for stranger in (other.file, None):
            with pytest.raises(ModelAwayError, match="certificate"):
                served(url, ca_file=stranger).respond(_rows(1))
    with pytest.raises(ConfigError, match="no certificates"):
        served("https://127.0.0.1:1/digits", ca_file=Path("/none.pem"))


def test_over_grpc_too_a_server_is_trusted_by_its_certificate_only(
    make_authority: Callable[..., Any], served: Callable[..., Responder]
) -> None:
    grpc = pytest.importorskip("grpc", reason="the extra oip is not installed")
    messages = message_classes()
    tensor = messages["Tensor"](name="logits", datatype="FP32", shape=[1, 10])
    tensor.contents.fp32_contents.extend([0.5] * 10)  # numbers one by one, not as raw bytes
    answer = messages["ModelInferResponse"](outputs=[tensor]).SerializeToString()
    method = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)  # noqa: ARG005
    handlers = grpc.method_handlers_generic_handler(
        "inference.GRPCInferenceService", {"ModelInfer": method}
    )
    known, other = make_authority("known"), make_authority("other")
    certificate, key = known.issue("server", "127.0.0.1")
    server = grpc.server(ThreadPoolExecutor(1), handlers=[handlers])
    trusted = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
    port = server.add_secure_port("127.0.0.1:0", trusted)
    server.start()
    try:
        url = f"grpcs://127.0.0.1:{port}/digits"
        probs, _ = served(url, ca_file=known.file).respond(_rows(1))
        np.testing.assert_allclose(probs, np.full((1, 10), 0.1), rtol=1e-6)
        with pytest.raises(ModelAwayError, match="UNAVAILABLE"):
            served(url, ca_file=other.file).respond(_rows(1))
        with pytest.raises(ModelError, match="UNIMPLEMENTED"):
            _describe(url, known.file)
    finally:
        server.stop(None).wait()
    with pytest.raises(ConfigError, match="no certificates"):
        served("grpcs://127.0.0.1:1/digits", ca_file=Path("/none.pem"))


def _describe(url: str, ca_file: Path) -> None:
    with contextlib.closing(connect(Address.parse(url), timeout_s=5, ca_file=ca_file)) as server:
        server.describe()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://h:8080/m", "http://h:8080/m"),
        ("https://h/a/b/m.1?version=3", "https://h:443/a/b/m.1?version=3"),
        ("grpcs://[::1]:8081/m", "grpcs://[::1]:8081/m"),
    ],
)
def test_an_address_is_read_and_shown(url: str, shown: str) -> None:
    assert str(Address.parse(url)) == shown


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h:1/m", "http:///m", "http://h:1", "http://h:1/", "grpc://h/m", "grpc://h:1/a/m"),
        *("http://h:x/m", "http://u:p@h:1/m", "http://h:1/m?other=1", "http://h:1/m?version=a/b"),
        *("http://h:1/a b/m", "http://h:1/m#x", "http://h:99999/m", "http://h:1//m"),
    ],
)
def test_what_is_no_address_is_refused_without_showing_a_secret(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Address.parse(url)
    assert "p@" not in str(caught.value)


def test_a_server_belongs_to_one_bundle() -> None:
    one = Address.parse("http://h:1/m")
    parse = Servers.parse
    alone = parse([(None, one)], bundles=["a"], timeout_s=1, ca_file=None)
    assert alone.addresses == {"a": one}
    for given, says in (
        ([(None, one)], "which of a, b is it for"),
        ([("c", one)], "no bundle of this worker"),
        ([("a", one), ("a", one)], "has two servers"),
    ):
        with pytest.raises(ConfigError, match=says):
            parse(given, bundles=["a", "b"], timeout_s=1, ca_file=None)
    with pytest.raises(ConfigError, match="certificates need TLS"):
        parse([(None, one)], bundles=["a"], timeout_s=1, ca_file=Path("ca.pem"))


def test_connecting_sends_nothing() -> None:
    server = connect(Address.parse("http://127.0.0.1:1/m"), timeout_s=1)
    server.close()
    server.close()
    assert load_bundle(DIGITS).labels
