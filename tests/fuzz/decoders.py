"""The functions that read bytes: each returns what fits together, or raises its own error."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Callable, Sequence

import numpy as np

from hedge.models.errors import ModelError, WireError
from hedge.models.tflite_graph import check_tflite
from hedge.uplink import codecs, topics, wire
from hedge.uplink.outbox import frames, stored
from hedge.uplink.outbox.outbox import Record
from hedge.uplink.parts import Bounds, Gatherer

from . import graphs, messages
from .mutator import Mutator

_CODECS: tuple[codecs.Codec, ...] = ("raw", "zlib", "zstd", "float16", "float16+zlib", "jpeg")


class Decoder:
    """A `Target` that is a function of bytes."""

    def __init__(
        self,
        name: str,
        read: Callable[[bytes], None],
        seeds: Sequence[bytes],
        *,
        messages: bool = True,
    ) -> None:
        self.name = name
        self.seeds = seeds
        self._messages = messages
        self._read = read

    def again(self) -> Decoder:
        """Return one as new: this one, which remembers nothing."""
        return self

    def draw(self, mutator: Mutator) -> bytes:
        """Change a seed, as a message every other time; see `Target`."""
        if self._messages and mutator.rng.random() < 0.5:
            return mutator.message_like(self.seeds)
        return mutator.bytes_like(self.seeds)

    def __call__(self, data: bytes) -> None:
        """Read; see `Target`."""
        self._read(data)

    def finish(self) -> None:
        """Read every seed once more; see `Target`."""
        for seed in self.seeds:
            self._read(seed)


def _request(data: bytes) -> None:
    with contextlib.suppress(WireError):
        found = wire.decode_request(data)
        wanted = math.prod(found.shape) * np.dtype(found.dtype).itemsize
        assert len(data) <= wire.MAX_REQUEST_BYTES
        assert wanted <= wire.MAX_TENSOR_BYTES
        array = wire.tensor(found)
        assert (array.shape, array.dtype) == (found.shape, np.dtype(found.dtype))
        assert array.nbytes == wanted
        assert not array.flags.writeable


def _reply(data: bytes) -> None:
    with contextlib.suppress(WireError):
        found = wire.decode_reply(data)
        assert len(data) <= wire.MAX_REPLY_BYTES
        for classes in (3, len(found.probs) // 4 or 1):
            with contextlib.suppress(WireError):
                probs = wire.distribution(found.probs, classes=classes)
                assert abs(float(probs.sum()) - 1) < 0.01
            with contextlib.suppress(WireError):
                alpha = wire.concentration(found.alpha or b"", classes=classes)
                assert alpha.min() > 0


def _notice(data: bytes) -> None:
    with contextlib.suppress(WireError):
        found = wire.decode_notice(data)
        assert 1 <= found.parts <= found.size <= wire.MAX_REQUEST_BYTES


def _part(data: bytes) -> None:
    with contextlib.suppress(WireError):
        found = wire.decode_part(data)
        assert 0 <= found.index < found.count <= wire.MAX_PARTS
        assert found.data


def _topic(data: bytes) -> None:
    topic = data.decode("utf-8", "replace")
    for parse, made in (
        (topics.parse_ask, topics.Device.ask),
        (topics.parse_notice, topics.Device.notice),
        (topics.parse_part, topics.Device.part),
    ):
        with contextlib.suppress(WireError):
            device, last = parse(topic)
            assert made(device, last) == topic


def _codec(data: bytes) -> None:
    """Read a head (codec, dtype, axes) and then a body in that codec."""
    if len(data) < 8:
        return
    dtype = ("float32", "uint8", "float16", "int64")[data[1] % 4]
    shape = tuple(1 + axis for axis in data[3 : 3 + data[2] % 4])
    with contextlib.suppress(WireError):
        array = codecs.decode(
            data[8:], dtype=dtype, shape=shape, codec=_CODECS[data[0] % len(_CODECS)]
        )
        assert array.shape == shape


def _record(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        told = stored.summary(data)
        assert len(told.id) <= 255
    with contextlib.suppress(ValueError):
        found = stored.unpack(data, ahead_ns=1)
        assert isinstance(found, Record)
        stored.copied(data, final=True, sends=1 << 20)
    for number, word in stored.marks(memoryview(data)):
        assert 0 <= number < 1 << 64
        assert 0 <= word < 256


def _frames(data: bytes) -> None:
    found = list(frames.scan(data, segment=1))
    for one in found:
        assert 0 <= one.begin <= one.end <= len(data)
    assert [one.number for one in found] == sorted({one.number for one in found})
    frames.record_of(data, segment=1, number=0)


def _tflite(data: bytes) -> None:
    with contextlib.suppress(ModelError):
        found = check_tflite(data, where="fuzz.tflite")
        assert len(found.endings) == len(found.outputs)
        for one in (*found.inputs, *found.outputs):
            assert all(extent is None or extent >= 0 for extent in one.shape)
            assert one.quantisation is None or 0 < one.quantisation.scale < math.inf


def _codec_seeds() -> list[bytes]:
    numbers = np.arange(12) % 7
    image = (np.arange(192) % 251).reshape(8, 8, 3)
    found = []
    for place, codec in enumerate(_CODECS[:-1]):
        with contextlib.suppress(Exception):
            body = codecs.encode(numbers.reshape(3, 4), dtype="float32", codec=codec)
            found.append(bytes((place, 0, 2, 2, 3, 0, 0, 0)) + body)
    with contextlib.suppress(Exception):
        body = codecs.encode(image, dtype="uint8", codec="jpeg")
        found.append(bytes((5, 1, 3, 7, 7, 2, 0, 0)) + body)
    return found


def _topic_seeds() -> list[bytes]:
    device = messages.DEVICE
    found = (device.ask("cam"), device.notice("cam"), device.part("w0"), device.answer)
    return [topic.encode() for topic in (*found, device.status)]


def record(number: int = 1) -> Record:
    """Return an ask as an outbox keeps it."""
    return Record(
        request=messages.request(f"7-{number}"),
        stream=messages.STREAM,
        classes=3,
        score=0.1 * (number % 10),
        deadline_ns=10**15 + number,
        answer_by_ns=10**15,
        asked_at_ns=number,
    )


def _frame_seeds() -> list[bytes]:
    payloads = [stored.pack(record(number), order=number, ahead_ns=0) for number in range(4)]
    rows = [
        frames.frame(frames.PUT, one, segment=1, salt=5, number=number, puts=number)
        for number, one in enumerate(payloads)
    ]
    return [b"".join(rows), rows[0], b"".join(reversed(rows)), struct.pack("<I", 0) * 100]


class Gathering:
    """A `Target`: what joins the parts of requests, within its bounds.

    An input's first byte says whether a notice or a part follows.
    """

    name = "gatherer"

    def __init__(self) -> None:
        notices, pieces = messages.in_parts()
        self.seeds: Sequence[bytes] = [
            *(b"n" + one for one in notices),
            *(b"p" + one for one in pieces),
        ]
        self._bounds = Bounds(size_bytes=1 << 16, requests=8, device_bytes=1 << 14)
        self._gatherer = Gatherer(self._bounds)
        self._now_ns = 0

    def again(self) -> Gathering:
        """Return one as new."""
        return Gathering()

    def draw(self, mutator: Mutator) -> bytes:
        """Leave every third as it is, so that something is gathered; see `Target`."""
        seed = mutator.rng.choice(self.seeds)
        match mutator.rng.randrange(3):
            case 0:
                return seed
            case 1:
                return mutator.bytes_like((seed,))
            case _:
                return seed[:1] + mutator.message_like((seed[1:],))

    def __call__(self, data: bytes) -> None:
        """Announce or add; see `Target`."""
        self._now_ns += 10**9
        with contextlib.suppress(WireError):
            if data[:1] == b"n":
                notice = wire.decode_notice(data[1:])
                self._gatherer.expect(messages.DEVICE, notice, now_ns=self._now_ns)
            else:
                part = wire.decode_part(data[1:])
                self._gatherer.take(messages.DEVICE, part, now_ns=self._now_ns)
        assert self._gatherer.size_bytes <= self._bounds.size_bytes
        assert len(self._gatherer) <= self._bounds.requests

    def finish(self) -> None:
        """Join a request, and let time clear the rest away; see `Target`."""
        self._gatherer.forget_old(now_ns=self._now_ns + 10**12)
        assert (len(self._gatherer), self._gatherer.size_bytes) == (0, 0)
        before = self._gatherer.counters()["parts_joined"]
        for seed in self.seeds:
            self(seed)
        assert self._gatherer.counters()["parts_joined"] == before + 2


def decoders() -> list[Decoder | Gathering]:
    """Return all targets that are functions of bytes."""
    notices, pieces = messages.in_parts()
    payloads = [stored.pack(record(number), order=number, ahead_ns=0) for number in range(3)]
    plain = {"messages": False}
    return [
        Decoder("request", _request, messages.requests()),
        Decoder("reply", _reply, messages.replies()),
        Decoder("notice", _notice, notices),
        Decoder("part", _part, pieces),
        Gathering(),
        Decoder("codec", _codec, _codec_seeds(), **plain),
        Decoder("topic", _topic, _topic_seeds(), **plain),
        Decoder("record", _record, payloads, **plain),
        Decoder("frames", _frames, _frame_seeds(), **plain),
        Decoder("tflite", _tflite, graphs.tflite(), **plain),
    ]
