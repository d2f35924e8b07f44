"""The messages of the wire."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Literal, get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

from hedge.models.errors import WireError
from hedge.models.manifest import DType
from hedge.models.records import Opinion
from hedge.uplink import codecs, wire
from hedge.uplink.link.link import Properties
from hedge.uplink.link.packed import Packed

BODY = np.arange(-3, 3, dtype=np.int16).reshape(2, 3)
PROBS = np.array([0.5, 0.25, 0.125, 0.125], np.float32)


def request(**changes: object) -> wire.Request:
    """Return a sound request, changed."""
    opinion = Opinion(np.array([0.7, 0.2, 0.1]), np.float32(0.3), "vacuity", vacuity=0.3)
    sound = wire.Request(
        v=1,
        id="12-345",
        session=12,
        kind="decide",
        model="digits",
        contract="0123456789abcdef",
        entry="input",
        remaining_ms=1500,
        dtype="int16",
        shape=(2, 3),
        codec="raw",
        opinion=wire.opinion_of(opinion),
        body=wire.pack(BODY, "int16"),
    )
    return msgspec.structs.replace(sound, **changes)


def reply(**changes: object) -> wire.Reply:
    """Return a sound reply, changed."""
    sound = wire.Reply(
        v=1,
        id="12-345",
        session=12,
        contract="0123456789abcdef",
        status="ok",
        detail=None,
        probs=wire.pack(PROBS, "float32"),
        alpha=None,
        elapsed_ms=2.5,
    )
    return msgspec.structs.replace(sound, **changes)


def test_a_request_comes_out_as_it_went_in() -> None:
    found = wire.decode_request(wire.encode(request()))
    assert found == request()
    assert np.array_equal(wire.tensor(found), BODY)
    assert found.opinion is not None
    assert np.frombuffer(found.opinion.probs, "<f4") == pytest.approx([0.7, 0.2, 0.1])


def test_a_reply_comes_out_as_it_went_in() -> None:
    found = wire.decode_reply(wire.encode(reply()))
    assert found == reply()
    assert np.array_equal(wire.distribution(found.probs, classes=4), PROBS)


@pytest.mark.parametrize("dtype", get_args(DType))
@pytest.mark.parametrize("shape", [(), (5,), (2, 1, 3)])
def test_a_tensor_of_any_dtype_and_shape_survives(dtype: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    array = rng.integers(0, 100, shape).astype(dtype)
    sent = request(dtype=dtype, shape=shape, body=wire.pack(np.asarray(array).T.T, dtype))
    found = wire.tensor(wire.decode_request(wire.encode(sent)))
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, array)
    assert not found.flags.writeable


def test_a_request_of_ten_classes_costs_few_bytes_beside_its_body() -> None:
    opinion = Opinion(np.full(10, 0.1), 0.3, "vacuity", vacuity=0.3)
    sent = request(opinion=wire.opinion_of(opinion))
    assert len(wire.encode(sent)) - len(sent.body) < 140


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"body": b"\0" * 11}, "11 bytes for int16"),
        ({"body": b"\0" * 13}, "takes 12"),
        ({"shape": (2, 3, 2**30, 2**30)}, "at most 16777216 are read"),
        ({"shape": (4096, 2049)}, "at most 16777216 are read"),
        ({"shape": (4096, 2048)}, "12 bytes for int16"),
        ({"shape": (2, 0)}, "not understood"),
        ({"shape": (-2, -3)}, "not understood"),
        ({"shape": (1,) * 9}, "not understood"),
        ({"dtype": "object"}, "not understood"),
        ({"dtype": "float64"}, "not understood"),
        ({"codec": "gzip"}, "not understood"),
        ({"codec": "zlib", "body": b"\0" * 77}, "77 bytes for int16"),
        ({"codec": "float16"}, "float16 is for float32"),
        ({"codec": "float16+zlib"}, "for float32"),
        ({"codec": "float16", "dtype": "float32", "body": b"\0" * 13}, "13 bytes"),
        ({"codec": "float16", "dtype": "float32", "body": b"\0" * 11}, "11 bytes"),
        ({"codec": "jpeg"}, "jpeg is for uint8 images"),
        ({"codec": "jpeg", "dtype": "uint8", "shape": (3, 8, 8)}, "jpeg is for uint8 images"),
        ({"kind": "command"}, "not understood"),
        ({"id": "a/b"}, "not understood"),
        ({"id": "12-345\n"}, "not understood"),
        ({"id": "x" * 65}, "not understood"),
        ({"contract": "0123456789abcdeF"}, "not understood"),
        ({"session": -1}, "not understood"),
        ({"remaining_ms": -1}, "not understood"),
        ({"remaining_ms": 2**60}, "not understood"),
        ({"v": 2}, "version 2"),
        ({"opinion": wire.WireOpinion(b"", 0.5, "vacuity", None)}, "0 bytes of"),
        ({"opinion": wire.WireOpinion(b"\0" * 13, 0.5, "vacuity", None)}, "13 bytes"),
        (
            {"opinion": wire.WireOpinion(PROBS.tobytes(), float("nan"), "vacuity", None)},
            "not finite",
        ),
    ],
)
def test_a_request_that_contradicts_itself_is_refused(
    changes: dict[str, object], says: str
) -> None:
    with pytest.raises(WireError, match=says):
        wire.decode_request(wire.encode(request(**changes)))


@pytest.mark.parametrize("codec", ["zlib", "float16", "float16+zlib"])
def test_a_packed_tensor_is_what_was_sent(codec: wire.Codec) -> None:
    array = np.linspace(-2, 5, 24, dtype=np.float16).astype(np.float32).reshape(4, 6)
    body = codecs.encode(array, dtype="float32", codec=codec)
    sent = request(dtype="float32", shape=(4, 6), codec=codec, body=body)
    found = wire.tensor(wire.decode_request(wire.encode(sent)))
    assert found.dtype == np.float32
    assert np.array_equal(found, array)
    assert not found.flags.writeable


def test_a_body_that_unpacks_to_something_else_is_refused_when_it_is_decoded() -> None:
    sent = request(codec="zlib", body=zlib.compress(b"\0" * 11))
    found = wire.decode_request(wire.encode(sent))
    with pytest.raises(WireError, match="other than 12 bytes"):
        wire.tensor(found)


def test_a_message_that_is_too_long_is_refused_before_it_is_decoded() -> None:
    payload = b"\xff" * 101
    with pytest.raises(WireError, match="101 bytes, at most 100"):
        wire.decode_request(payload, max_bytes=100)
    with pytest.raises(WireError, match="101 bytes, at most 100"):
        wire.decode_reply(payload, max_bytes=100)
    with pytest.raises(WireError, match="513 bytes, at most 512"):
        wire.decode_notice(b"\xff" * 513)
    with pytest.raises(WireError, match="at most 4194304"):
        wire.decode_part(bytes(wire.MAX_REQUEST_BYTES + 1))


def test_a_claim_names_the_worker_that_wants_the_parts() -> None:
    claim = reply(status="claim", detail="worker-1", probs=b"")
    assert wire.decode_reply(wire.encode(claim)) == claim
    for name in (None, "", "a/b", "+", "Worker", "w\n", "w" * 65):
        with pytest.raises(WireError, match="names no worker"):
            wire.decode_reply(wire.encode(reply(status="claim", detail=name, probs=b"")))


def notice(**changes: object) -> wire.Notice:
    """Return a sound notice, changed."""
    sound = wire.Notice(1, "12-345", 12, "0123456789abcdef", 100_000, 3, 1500)
    return msgspec.structs.replace(sound, **changes)


def part(**changes: object) -> wire.Part:
    """Return a sound part, changed."""
    return msgspec.structs.replace(wire.Part(1, "12-345", 12, 2, 3, b"abc"), **changes)


def test_a_notice_and_a_part_come_out_as_they_went_in() -> None:
    for sent in (notice(), notice(remaining_ms=None)):
        assert wire.decode_notice(wire.encode(sent)) == sent
    assert wire.decode_part(wire.encode(part())) == part()


def test_the_longest_notice_is_within_its_limit() -> None:
    most = (1 << 53) - 1
    longest = notice(
        id="x" * 64, session=most, size=wire.MAX_REQUEST_BYTES, parts=4096, remaining_ms=most
    )
    assert wire.decode_notice(wire.encode(longest)) == longest


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"id": "a/b"},
        {"session": -1},
        {"contract": "x"},
        {"size": 0},
        {"size": wire.MAX_REQUEST_BYTES + 1},
        {"parts": 0},
        {"parts": 4097},
        {"size": 2, "parts": 3},
        {"remaining_ms": -1},
    ],
)
def test_a_notice_of_too_much_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WireError, match="notice"):
        wire.decode_notice(wire.encode(notice(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"v": 2},
        {"id": ""},
        {"session": 1 << 53},
        {"index": 3},
        {"index": -1},
        {"count": 2},
        {"count": 4097},
        {"data": b""},
    ],
)
def test_a_part_of_no_whole_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(WireError, match="part"):
        wire.decode_part(wire.encode(part(**changes)))


def test_an_answer_without_probabilities_is_refused_but_an_error_needs_none() -> None:
    with pytest.raises(WireError, match="without probabilities"):
        wire.decode_reply(wire.encode(reply(probs=b"")))
    refusal = reply(status="error", detail="no such model", probs=b"")
    assert wire.decode_reply(wire.encode(refusal)) == refusal


@pytest.mark.parametrize(
    "probs",
    [
        [0.5, 0.25, 0.25],
        [0.5, 0.25, 0.125, 0.1],
        [0.5, 0.5, 0.5, -0.5],
        [np.nan, 0.5, 0.25, 0.25],
        [np.inf, 0.0, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ],
)
def test_what_is_no_point_of_the_simplex_is_no_distribution(probs: list[float]) -> None:
    with pytest.raises(WireError):
        wire.distribution(np.array(probs, "<f4").tobytes(), classes=4)


@pytest.mark.parametrize("alpha", [[1.0, 2.0], [1.0, 0.0, 2.0], [1.0, -1.0, 2.0], [1, np.nan, 2]])
def test_what_no_dirichlet_has_is_no_concentration(alpha: list[float]) -> None:
    with pytest.raises(WireError):
        wire.concentration(np.array(alpha, "<f4").tobytes(), classes=3)


def test_a_distribution_in_half_precision_is_close_enough_to_one() -> None:
    probs = np.random.default_rng(5).dirichlet(np.full(1000, 0.3)).astype(np.float16)
    assert wire.distribution(wire.pack(probs, "float32"), classes=1000).shape == (1000,)


@given(st.binary(max_size=200))
def test_any_bytes_at_all_raise_nothing_but_wire_errors(payload: bytes) -> None:
    for decode in (
        wire.decode_request,
        wire.decode_reply,
        wire.decode_notice,
        wire.decode_part,
    ):
        with pytest.raises(WireError):
            decode(payload)


@given(data=st.data(), which=st.sampled_from([request, reply, notice, part]))
def test_mutated_messages_are_sound_or_wire_errors(
    data: st.DataObject, which: Callable[[], wire.Request | wire.Reply | wire.Notice | wire.Part]
) -> None:
    payload = bytearray(wire.encode(which()))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(payload) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "insert", "repeat"])):
            case "flip":
                payload[place] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del payload[place : place + data.draw(st.integers(1, 8))]
            case "insert":
                payload[place:place] = data.draw(st.binary(min_size=1, max_size=8))
            case _:
                payload *= 2
        payload = payload[:1000] or bytearray(b"\0")
    try:
        if which is request:
            found = wire.decode_request(bytes(payload))
            assert wire.tensor(found).shape == found.shape
        elif which is reply:
            wire.distribution(wire.decode_reply(bytes(payload)).probs, classes=4)
        elif which is notice:
            announced = wire.decode_notice(bytes(payload))
            assert announced.parts <= announced.size <= wire.MAX_REQUEST_BYTES
        else:
            assert wire.decode_part(bytes(payload)).index < wire.MAX_PARTS
    except WireError:
        pass


@pytest.mark.parametrize(
    "payload",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 4 billion
        b"\x9d\x01\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\x91" * 100_000,  # 100,000 arrays in each other
        wire.encode(request())[:-12] + b"\x91" * 100_000,
        b"",
    ],
)
def test_a_message_that_promises_more_than_it_holds_is_refused(payload: bytes) -> None:
    with pytest.raises(WireError):
        wire.decode_request(payload)


class _OlderRequest(Struct, frozen=True, array_like=True):
    """A request as it was before `wire.Request.traceparent`."""

    v: Literal[1]
    id: wire.Id
    session: wire.Count
    kind: str
    model: wire.Name
    contract: wire.Digest
    entry: wire.Entry
    remaining_ms: int | None
    dtype: str
    shape: tuple[int, ...]
    codec: str
    opinion: wire.WireOpinion | None
    body: bytes


def test_requests_with_and_without_a_trace_are_read_by_older_and_newer_ends() -> None:
    traced = request(traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    by_old = msgspec.msgpack.decode(wire.encode(traced), type=_OlderRequest)
    assert msgspec.structs.astuple(by_old) == msgspec.structs.astuple(traced)[:-1]
    assert wire.decode_request(msgspec.msgpack.encode(by_old)) == request()
    assert wire.decode_request(wire.encode(traced)) == traced


def test_a_traceparent_that_is_no_text_or_too_long_is_refused() -> None:
    *fields, _ = msgspec.structs.astuple(request())
    for wrong in (7, b"00", "0" * 129):
        with pytest.raises(WireError, match="not understood"):
            wire.decode_request(msgspec.msgpack.encode([*fields, wrong]))


def test_fields_that_a_later_version_may_append_are_passed_over() -> None:
    longer = [*msgspec.msgpack.decode(wire.encode(reply())), "later", 7]
    assert wire.decode_reply(msgspec.msgpack.encode(longer)) == reply()


@pytest.mark.parametrize(
    "given_",
    [
        Properties(),
        Properties(content_type="application/msgpack", expiry_s=1),
        Properties("application/msgpack", "hedge/1/s/d/answer", b"12-345", 86_400),
        Properties(expiry_s=1, user=(("traceparent", "00-1-2-01"), ("é", ""), ("é", "x" * 300))),
        Properties(content_type="c" * 300, response_topic="r" * 200, correlation=b"\0" * 17_000),
    ],
)
def test_packed_properties_are_what_the_library_reads(given_: Properties) -> None:
    data = Packed(given_).pack()
    found = PahoProperties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    assert found.unpack(data)[1] == len(data)  # type: ignore[no-untyped-call]
    read = Properties(
        getattr(found, "ContentType", None),
        getattr(found, "ResponseTopic", None),
        getattr(found, "CorrelationData", None),
        getattr(found, "MessageExpiryInterval", None),
        tuple(getattr(found, "UserProperty", ())),
    )
    assert read == given_
