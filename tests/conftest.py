"""Small real models and bundles for tests, made by `onnx`; real brokers, pumps and workers."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedge.models.bundle import write_bundle
from hedge.models.dataset import save_seen
from hedge.models.manifest import (
    Calibration,
    Cloud,
    Edge,
    Filter,
    Input,
    Manifest,
    Training,
)
from hedge.models.records import Opinion, Probs
from hedge.telemetry.clock import boottime_ns
from hedge.uplink.asks import Answer, Ask, Contract
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.link import Link
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

settings.register_profile("hedge", deadline=None)  # nothing is timed in a test
settings.load_profile("hedge")
# A shell's background jobs ignore Ctrl-C, and so would all that is started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHAPE, LABELS = (4,), ("rest", "walk", "run")


@pytest.fixture(scope="session")
def gstreamer() -> None:
    """Skip what needs GStreamer's command and the plugins that the tests' pipelines are made of."""
    for element in ("videotestsrc", "decodebin", "v4l2src", "vp8dec"):
        try:
            found = subprocess.run(["gst-inspect-1.0", "--exists", element], check=False)
        except FileNotFoundError:
            pytest.skip("gst-inspect-1.0 is not installed")
        if found.returncode:
            pytest.skip(f"GStreamer's element {element} is not installed")


@pytest.fixture(autouse=True)
def _no_log_is_left_open() -> Iterator[None]:
    """Take away the handler that a command has made for its log: its stream is the test's."""
    before = [*logging.root.handlers]
    yield
    for handler in logging.root.handlers[:]:
        if handler not in before and type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def linear_onnx() -> Callable[..., bytes]:
    """Give a maker of linear models: `linear_onnx(outputs, seed=…, shape=…, batch=…, …)`."""
    return _linear


@pytest.fixture
def manifest() -> Manifest:
    """Give the manifest of `bundle_files`: input (4,) float32, three labels."""
    return Manifest(
        format=1,
        name="steps",
        version="1.0",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        citations=("Nobody, 2025",),
        input=Input(kind="tensor", shape=SHAPE, dtype="float32"),
        edge=(Edge(name="tiny", file="edge.onnx", head="evidential"),),
        filter=(Filter(kind="skip", file="skip.onnx", threshold=0.25, redundant=("rest",)),),
        cloud=Cloud(file="cloud.onnx"),
        calibration=Calibration(
            score="vacuity", total=0.4, method="by hand", rows=10, data_sha256="0" * 64
        ),
        training=Training(recipe="none", seed=3, data_sha256="0" * 64, seen="seen.npy"),
        files={},
    )


@pytest.fixture
def bundle_files() -> dict[str, bytes]:
    """Give the files that `manifest` names."""
    return {
        "edge.onnx": _linear(3, seed=1),
        "skip.onnx": _linear(1, seed=2),
        "cloud.onnx": _linear(3, seed=3),
        "seen.npy": save_seen(np.array([7, 3, 2**63], np.uint64)),
    }


@pytest.fixture
def bundle_dir(tmp_path: Path, manifest: Manifest, bundle_files: Mapping[str, bytes]) -> Path:
    """Give a folder that holds a sound bundle of all parts."""
    return write_bundle(tmp_path / "steps", manifest, bundle_files).path


def _linear(
    outputs: int,
    *,
    seed: int = 1,
    shape: tuple[int, ...] = SHAPE,
    batch: int | str = "B",
    dtype: str = "float32",
    operator: tuple[str, str] = ("", "MatMul"),
    opset: int = 17,
    ir_version: int = 8,
) -> bytes:
    """Return y = flatten(x) W, W (shape, outputs) drawn by ``seed``, in ``dtype``."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    size = (math.prod(shape), outputs)
    weights = np.random.default_rng(seed).normal(size=size).astype(dtype)
    domain, name = operator
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node(name, ["flat", "W"], ["y"], domain=domain),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("x", element, [batch, *shape])],
        [helper.make_tensor_value_info("y", element, [batch, outputs])],
        [numpy_helper.from_array(weights, "W")],
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, ir_version=ir_version, opset_imports=imports)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture(scope="session")
def linear_tflite() -> Callable[..., bytes]:
    """Give a maker of TFLite files: `linear_tflite(outputs, seed=…, softmax=…, int8=…, …)`."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    return _linear_tflite


def _linear_tflite(
    outputs: int,
    *,
    seed: int = 1,
    width: int = SHAPE[0],
    free_batch: bool = True,
    int8: bool = False,
    inputs: int = 1,
) -> bytes:
    """Return softmax(x W), x (B, width) and W drawn by ``seed``, written with the schema.

    With ``int8`` x is stored in steps of 1/32 and W of 1/64, and the softmax, as TFLite has it,
    in steps of 1/256.
    """
    import flatbuffers  # noqa: PLC0415  comes with the extra
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415  an extra

    weights = np.random.default_rng(seed).normal(size=(outputs, width)).astype(np.float32)
    kind = schema.TensorType.INT8 if int8 else schema.TensorType.FLOAT32
    model = schema.ModelT()
    model.version = 3
    model.buffers = [schema.BufferT(), schema.BufferT()]
    stored = np.clip(np.rint(weights * 64), -127, 127).astype(np.int8) if int8 else weights
    model.buffers[1].data = np.frombuffer(stored.tobytes(), np.uint8)

    def tensor(
        name: str, shape: tuple[int, ...], *, buffer: int = 0, scale: float, zero: int = 0
    ) -> Any:  # noqa: ANN401
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), kind, buffer
        if not buffer and free_batch:
            made.shapeSignature = [-1, *shape[1:]]
        if int8:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero]
        return made

    def operator(code: int, fed: list[int], given: int, kind: int, options: Any) -> Any:  # noqa: ANN401
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = code, fed, [given]
        made.builtinOptionsType, made.builtinOptions = kind, options
        return made

    fully, softmax = schema.FullyConnectedOptionsT(), schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", (1, width), scale=1 / 32, zero=3),
        tensor("W", (outputs, width), buffer=1, scale=1 / 64),
        tensor("logits", (1, outputs), scale=1 / 8, zero=-2),
        tensor("y", (1, outputs), scale=1 / 256, zero=-128),
        *(tensor(f"x{place}", (1, width), scale=1.0) for place in range(1, inputs)),
    ]
    graph.inputs, graph.outputs = [0, *range(4, 3 + inputs)], [3]
    graph.operators = [
        operator(0, [0, 1, -1], 2, schema.BuiltinOptions.FullyConnectedOptions, fully),
        operator(1, [2], 3, schema.BuiltinOptions.SoftmaxOptions, softmax),
    ]
    model.subgraphs = [graph]
    model.operatorCodes = []
    for code in (schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.SOFTMAX):
        made = schema.OperatorCodeT()
        made.builtinCode = made.deprecatedBuiltinCode = code
        made.version = 4 if int8 and code == schema.BuiltinOperator.FULLY_CONNECTED else 1
        model.operatorCodes.append(made)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


# ---- The uplink: brokers as processes of their own, pumps and workers that are closed again.

BROKERS = ("mosquitto", "amqtt")
VERSIONS = {"mosquitto": "5", "amqtt": "3.1.1"}
PATIENCE_S = 30.0  # for what must come; a test that passes waits for milliseconds


def _port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _mosquitto() -> str:
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed, so nothing here speaks MQTT 5")
    return program


def _start_broker(
    kind: str, port: int, folder: Path, lines: tuple[str, ...]
) -> subprocess.Popen[bytes]:
    """Start a broker and return once it takes connections; skip where there is none."""
    if kind == "mosquitto":
        config = folder / f"mosquitto-{port}.conf"
        own = ("allow_anonymous true", "set_tcp_nodelay true", "user root")
        config.write_text("\n".join((f"listener {port} 127.0.0.1", *own, *lines)))
        command = [_mosquitto(), "-c", str(config)]
    else:
        command = [sys.executable, "-m", "hedge", "broker", "--port", str(port)]
    return _started(command, port, folder / f"{kind}-{port}.log")


def _started(command: list[str], port: int, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, cwd=log.parent, stdout=file, stderr=file)
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process
        time.sleep(0.02)
    _end(process)
    raise RuntimeError(f"{command} did not start: {log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


_NODE = """
server_name: node-{node}
listen: 127.0.0.1:{clients}
jetstream {{ store_dir: "{folder}/node-{node}" }}
cluster {{ name: hedge, listen: 127.0.0.1:{own}, routes: [{routes}] }}
mqtt {{ listen: 127.0.0.1:{mqtt}, stream_replicas: 3 }}
"""


class Cluster:
    """Three NATS servers, whose JetStream keeps what MQTT clients send on all of them."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("nats-server") or shutil.which("nats-server", path="/usr/sbin")
        if program is None:
            pytest.skip("nats-server is not installed, so there is no cluster")
        self._program = program
        self._folder = folder
        self._ports = [_port() for _ in range(3)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        own = [_port() for _ in self._ports]
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in own)
        for node, (mqtt, mine) in enumerate(zip(self._ports, own, strict=True)):
            values = {"node": node, "mqtt": mqtt, "own": mine, "clients": _port()}
            text = _NODE.format(folder=folder, routes=routes, **values)
            (folder / f"node-{node}.conf").write_text(text)
        for node in range(3):
            self.start(node)

    def url(self, first: int = 0) -> str:
        """Return the URL that tries the nodes in turn, from ``first``."""
        turn = [*self._ports[first:], *self._ports[:first]]
        return f"mqtt://{','.join(f'127.0.0.1:{port}' for port in turn)}?version=3.1.1"

    def start(self, node: int) -> None:
        """Start a node; `wait` tells when it serves."""
        command = [self._program, "-c", str(self._folder / f"node-{node}.conf")]
        with (self._folder / f"node-{node}.log").open("ab") as log:
            self._processes[node] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, node: int) -> None:
        """Kill a node."""
        _end(self._processes.pop(node))

    def wait(self, *nodes: int) -> None:
        """Wait until each of these nodes accepts an MQTT client: until the three agree."""
        until_s = time.monotonic() + 3 * PATIENCE_S
        for node in nodes:
            while not self._accepts(node):
                assert time.monotonic() < until_s, self._folder
                time.sleep(0.1)

    def close(self) -> None:
        """Kill all."""
        for node in list(self._processes):
            self.kill(node)

    def _accepts(self, node: int) -> bool:
        hello = (
            b"\x10\x12\x00\x04MQTT\x04\x02\x00\x14\x00\x06ready" + b"0123456789"[node : node + 1]
        )
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._ports[node]), 5) as peer,
        ):
            peer.sendall(hello)
            return peer.recv(4) == b"\x20\x02\x00\x00"
        return False


@pytest.fixture
def start_cluster(tmp_path: Path) -> Iterator[Callable[[], Cluster]]:
    """Give `start_cluster()`: three NATS servers that the test may break."""
    with contextlib.ExitStack() as stack:

        def start() -> Cluster:
            found = stack.enter_context(contextlib.closing(Cluster(tmp_path)))
            found.wait(0, 1, 2)
            return found

        yield start


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a cluster of three NATS servers, shared by the tests that leave it whole."""
    with contextlib.closing(Cluster(tmp_path_factory.mktemp("nats"))) as found:
        found.wait(0, 1, 2)
        yield found


class Authority:
    """Issues certificates, as files."""

    def __init__(self, folder: Path) -> None:
        self._trustme = pytest.importorskip("trustme", reason="trustme makes the certificates")
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._ca = self._trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *hosts: str, days: int = 1) -> tuple[Path, Path]:
        """Return the files of a certificate for ``name``, and of its key."""
        expiry = datetime.now(timezone.utc) + timedelta(days=days)
        leaf = self._ca.issue_cert(*hosts, common_name=name, not_after=expiry)
        folder = self._folder / f"{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        files = (folder / "certificate.pem", folder / "key.pem")
        leaf.cert_chain_pems[0].write_to_path(str(files[0]))
        leaf.private_key_pem.write_to_path(str(files[1]))
        return files


@pytest.fixture
def make_authority(tmp_path: Path) -> Callable[[str], Authority]:
    """Give `make_authority(name)`, whose certificates nobody trusts yet."""
    return lambda name: Authority(tmp_path / name)


@pytest.fixture
def free_port() -> int:
    """Give a TCP port that nobody listens on."""
    return _port()


@pytest.fixture(params=BROKERS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    """Give each kind of broker in turn."""
    return str(request.param)


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Give `start_broker(kind, port, *lines)`; lines go into mosquitto's configuration."""
    with contextlib.ExitStack() as stack:

        def start(kind: str, port: int, *lines: str) -> subprocess.Popen[bytes]:
            process = _start_broker(kind, port, tmp_path, lines)
            stack.callback(_end, process)
            return process

        yield start


@pytest.fixture
def start_shipped(tmp_path: Path) -> Iterator[Callable[[str], tuple[int, int]]]:
    """Give `start_shipped(text)`: mosquitto with the shipped configuration, and its ports.

    What the configuration names lies in `tmp_path`; everything else is as it ships.
    """
    with contextlib.ExitStack() as stack:

        def start(text: str) -> tuple[int, int]:
            ports = _port(), _port()
            for shipped, ours in (
                ("listener 8883\n", f"listener {ports[0]}\n"),
                ("listener 443\n", f"listener {ports[1]}\n"),
                ("/etc/mosquitto/hedge/", f"{tmp_path}/"),
                ("/var/lib/mosquitto/", f"{tmp_path}/"),
            ):
                assert shipped in text
                text = text.replace(shipped, ours)
            config = tmp_path / "hedge.conf"
            config.write_text(f"{text}\nuser root\n")
            command = [_mosquitto(), "-c", str(config)]
            stack.callback(_end, _started(command, ports[1], tmp_path / "mosquitto.log"))
            return ports

        yield start


@pytest.fixture(scope="session", params=(*BROKERS, "nats"))
def broker_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Give the URL of a broker of each kind in turn, shared by all tests."""
    if request.param == "nats":
        yield request.getfixturevalue("cluster").url()
        return
    kind, port = request.param, _port()
    process = _start_broker(kind, port, tmp_path_factory.mktemp(kind), ())
    yield f"mqtt://127.0.0.1:{port}?version={VERSIONS[kind]}"
    _end(process)


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Device:
    """Give a device that is this test's alone."""
    return Device("tests", f"d{abs(hash(request.node.nodeid)):x}")


@pytest.fixture
def contract() -> Contract:
    """Give a contract of three classes on (4,) float32."""
    return Contract(name="steps", digest="0123456789abcdef", classes=3, dtype="float32", shape=(4,))


@pytest.fixture
def ask() -> Callable[..., Ask]:
    """Give `ask(id, within_s=…, score=…, first=…)`: an ask about [first, 0, 0, 0]."""

    def make(
        ask_id: str, *, within_s: float | None = 60.0, score: float = 0.5, first: float = 1.0
    ) -> Ask:
        now_ns = boottime_ns()
        return Ask(
            id=ask_id,
            stream="cam",
            kind="decide",
            entry="input",
            body=np.array([first, 0, 0, 0], np.float32),
            opinion=Opinion(np.array([0.5, 0.3, 0.2]), score, "vacuity", vacuity=score),
            asked_at_ns=now_ns,
            deadline_ns=None if within_s is None else now_ns + int(within_s * 1e9),
        )

    return make


def _echo(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
    """Answer [x, …] with (x, 1 - x, 0): the answer tells which ask it belongs to."""
    first = batch[:, 0].astype(np.float64)
    return np.stack([first, 1 - first, np.zeros_like(first)], axis=1), None


@pytest.fixture
def responder(contract: Contract) -> Responder:
    """Give the responder that answers `ask(…, first=x)` with (x, 1 - x, 0)."""
    return Responder(contract=contract, respond=_echo)


@pytest.fixture
def start_pump(
    device: Device, contract: Contract
) -> Iterator[Callable[..., tuple[Pump, threading.Event]]]:
    """Give `start_pump(link, …)`: a running pump and its bell."""
    with contextlib.ExitStack() as stack:

        def start(link: Link, **options: Any) -> tuple[Pump, threading.Event]:  # noqa: ANN401 -- what the constructor takes
            bell = threading.Event()
            given = {"outbox": MemoryOutbox(), "session": 7, "device": device, **options}
            pump = Pump(link, contracts={"cam": contract}, bell=bell, **given)
            pump.start()
            stack.callback(pump.close, timeout_s=1.0)
            return pump, bell

        yield start


@pytest.fixture
def start_worker(responder: Responder) -> Iterator[Callable[..., Worker]]:
    """Give `start_worker(link, name=…, …)`: a worker in a thread that has begun to serve."""
    with contextlib.ExitStack() as stack:

        def start(link: Link, *, wait: bool = True, **options: Any) -> Worker:  # noqa: ANN401 -- what the constructor takes
            serving = threading.Event()
            given = {"name": "w0", "responders": [responder], **options}
            worker = Worker(link, on_serving=lambda _: serving.set(), **given)
            thread = threading.Thread(target=worker.run, name="worker", daemon=True)
            thread.start()
            stack.callback(thread.join, PATIENCE_S)
            stack.callback(worker.stop)
            assert not wait or serving.wait(PATIENCE_S), worker.counters()
            return worker

        yield start


@pytest.fixture
def mqtt_link() -> Callable[..., MqttLink]:
    """Give `mqtt_link(url, client_id, …)`."""

    def make(url: str, client_id: str, **options: Any) -> MqttLink:  # noqa: ANN401 -- what the constructor takes
        return MqttLink(Broker.parse(url), client_id=client_id, **options)

    return make


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Give `eventually(condition)`, which waits until it holds, or fails."""

    def wait(condition: Callable[[], bool]) -> None:
        until_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < until_s, "it never came true"
            time.sleep(0.005)

    return wait


@pytest.fixture
def collect() -> Callable[[Pump, threading.Event, int], dict[str, Answer]]:
    """Give `collect(pump, bell, count)`: that many answers by id, or those that came."""

    def gather(pump: Pump, bell: threading.Event, count: int) -> dict[str, Answer]:
        found: dict[str, Answer] = {}
        until_s = time.monotonic() + PATIENCE_S
        while len(found) < count and time.monotonic() < until_s:
            bell.wait(0.1)
            bell.clear()
            pump.check()
            for answer in pump.answers():
                assert answer.id not in found, "answered twice"
                found[answer.id] = answer
        return found

    return gather
