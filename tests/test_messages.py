"""Messages to captures: every form, every kind of bundle, and whatever strangers send."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hedge.models.errors import ConfigError, DataError
from hedge.models.manifest import AudioInput, ImageInput, Input, TensorInput, TextInput
from hedge.runtime.sources.framing import FramingError, Lengths, Lines
from hedge.runtime.sources.messages import Inbox, Messages
from hedge.runtime.sources.options import Format
from hedge.runtime.sources.source import Captured

XYZ = ("x", "y", "z")


def tensor(channels: Iterable[str] = XYZ, *, rows: int = 1, **options: Any) -> Input:  # noqa: ANN401
    """Return an input of rows."""
    names = tuple(channels)
    dtype = options.pop("dtype", "float32")
    table = TensorInput(channels=names, rows=rows, **options)
    return Input(kind="tensor", shape=(rows, len(names)), dtype=dtype, tensor=table)


TEXT = Input(kind="text", shape=(16,), dtype="int32", tokenizer="t.json", text=TextInput())
IMAGE = Input(kind="image", shape=(8, 8, 3), dtype="uint8", image=ImageInput())
SOUND = Input(
    kind="audio",
    shape=(4,),
    dtype="float32",
    audio=AudioInput(sample_rate_hz=1000, samples=4, hop=2),
)


def captures(
    form: Format,
    spec: Input,
    *messages: bytes,
    **options: Any,  # noqa: ANN401
) -> list[Captured]:
    """Return what the messages of one sender hold."""
    series = Messages(form, spec, **options).series(where="here")
    found: list[Captured] = []
    for place, message in enumerate(messages):
        found += series.captures(message, 1000 * (place + 1))
    return found


def refused(form: Format, spec: Input, message: bytes, **options: Any) -> str:  # noqa: ANN401
    """Return what is said of a message that is no good."""
    with pytest.raises(DataError) as caught:
        captures(form, spec, message, **options)
    assert caught.value.where == "here"
    return str(caught.value)


def rows(found: Iterable[Captured]) -> list[Any]:
    """Return the data as lists."""
    return [one.data.tolist() for one in found]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (b'{"z": 3, "x": 1.5, "more": "text", "y": -2}', [[[1.5, -2, 3]]]),
        (b"[1, 2, 3e2]", [[[1, 2, 300]]]),
        (b"[[1, 2, 3], [4, 5, 6]]", [[[1, 2, 3]], [[4, 5, 6]]]),
        (b'[{"x":1,"y":2,"z":3},{"x":4,"y":5,"z":6}]', [[[1, 2, 3]], [[4, 5, 6]]]),
        (b"  \r\n", []),
    ],
)
def test_json_is_an_object_by_names_a_row_or_a_list_of_them(
    message: bytes, expected: list[Any]
) -> None:
    found = captures("json", tensor(), message)
    assert rows(found) == expected
    assert all(one.data.dtype == np.float32 for one in found)


def test_fields_name_the_members_in_the_bundles_order() -> None:
    (found,) = captures("json", tensor(), b'{"c":3,"a":1,"b":2,"x":9}', fields=("b", "c", "a"))
    assert found.data.tolist() == [[2, 3, 1]]


@pytest.mark.parametrize(
    ("message", "expected"), [(b"7", [[[7]]]), (b"[7, 8, 9]", [[[7]], [[8]], [[9]]])]
)
def test_a_list_for_one_channel_is_as_many_rows(message: bytes, expected: list[Any]) -> None:
    assert rows(captures("json", tensor(["v"]), message)) == expected


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"[1, 2]", "a row of 2 values; the bundle has 3 channels"),
        (b"[[1, 2, 3], [4, 5]]", "a row of 2 values"),
        (b'{"x": 1, "y": 2}', r"has no 'z' (it has 'x', 'y'; see the source's fields)"),
        (b'{"x": 1, "y": true, "z": 2}', "True is no number"),
        (b'["1", "2", "3"]', "'1' is no number"),
        (b"[null, 1, 2]", "None is no number"),
        (b"[[1, 2, 3], 4]", "a row of 2 values"),
        (b'[[1, 2, 3], {"x": 1}]', "a row of 2 values"),
        (b"[[[1]], [2], [3]]", "a row of 1 values"),
        (b"[]", "neither an object nor a list"),
        (b'"text"', "neither an object nor a list"),
        (b"[1, 2, NaN]", "no JSON: b'[1, 2, NaN]'"),
        (b"[1, 2, 1e999]", "Number out of range"),
        (b"[1, 2, 1e39]", "not finite, or too large"),
        (b"[1, 2, " + b"9" * 400 + b"]", "a number that is too large"),
        (b"[" * 100_000, "nested too deep"),
        (b"\xff\xfe", "no JSON"),
        (b'{"x": "\xff"}', "no JSON"),
        (b"garbage", "no JSON: b'garbage'"),
    ],
)
def test_json_that_is_no_row_is_refused_in_words(message: bytes, what: str) -> None:
    assert what in refused("json", tensor(), message)


@pytest.mark.parametrize(
    "line",
    [b"1,2.5,-3", b" 1 , 2.5 ,-3\r", b"1;2.5;-3", b"1\t2.5\t-3", b"  1  2.5 -3 ", b"1,2.5,-3\n"],
)
def test_csv_is_parted_as_devices_do(line: bytes) -> None:
    (found,) = captures("csv", tensor(), line)
    assert found.data.tolist() == [[1, 2.5, -3]]


def test_columns_are_picked_by_their_numbers_and_others_may_hold_anything() -> None:
    spec = tensor(["b", "a"])
    (found,) = captures("csv", spec, b"2026-11-21 10:00,1,2,ok", fields=("2", "1"))
    assert found.data.tolist() == [[2, 1]]
    assert "a line of 2 columns has no column 2" in refused("csv", spec, b"1,2", fields=("2", "1"))


def test_a_csv_message_may_hold_several_rows() -> None:
    assert rows(captures("csv", tensor(), b"1,2,3\r\n\r\n4,5,6\n")) == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"time,ax,ay", "a header line, no numbers: 'time,ax,ay'"),
        (b'"x","y","z"', "a header line"),
        (b"1,2", "a row of 2 values"),
        (b"1,,3", "no line of numbers: '1,,3'"),
        (b"1,2,1_000", "no line of numbers"),
        (b"1,2,nan", "not finite"),
        (b"1,2,-inf", "not finite"),
        (b"1,2,1e40", "not finite, or too large"),
        (b"1,2,\xb2", "is its baud rate or format another?"),
        (b"\x00\x00\x00", "a row of 1 values"),
    ],
)
def test_a_line_that_is_no_row_is_refused_in_words(line: bytes, what: str) -> None:
    assert what in refused("csv", tensor(), line)


def test_raw_rows_are_in_the_bundles_dtype_and_little_endian() -> None:
    message = struct.pack("<6h", 1, -2, 300, 4, 5, -32768)
    found = captures("tensor", tensor(dtype="int16"), message)
    assert rows(found) == [[[1, -2, 300]], [[4, 5, -32768]]]
    assert found[0].data.dtype == np.float32


def test_raw_rows_are_float32_where_the_bundle_scales_them() -> None:
    spec = tensor(dtype="int8", scale=(1.0, 2.0, 3.0))
    (found,) = captures("tensor", spec, struct.pack("<3f", 0.5, 100.25, -7))
    assert found.data.tolist() == [[0.5, 100.25, -7]]


def test_a_whole_sample_is_a_window() -> None:
    (found,) = captures("tensor", tensor(rows=2), struct.pack("<6f", *range(6)))
    assert found.data.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (b"", "0 bytes are no whole rows"),
        (b"\0" * 13, "13 bytes are no whole rows (a row is 3 float32: 12 bytes)"),
        (struct.pack("<3f", 1, 2, math.nan), "not finite"),
        (struct.pack("<3f", 1, 2, -math.inf), "not finite"),
    ],
)
def test_bytes_that_are_no_whole_rows_are_refused(message: bytes, what: str) -> None:
    assert what in refused("tensor", tensor(), message).replace("here: ", "")


def test_rows_become_windows_that_begin_where_the_source_says() -> None:
    spec = tensor(["v"], rows=3, hop=3)
    lines = [f"{value}".encode() for value in range(7)]
    assert rows(captures("csv", spec, *lines)) == [[[0], [1], [2]], [[3], [4], [5]]]
    found = captures("csv", spec, *lines, hop=2)
    assert rows(found) == [[[0], [1], [2]], [[2], [3], [4]], [[4], [5], [6]]]
    assert [one.taken_at_ns for one in found] == [3000, 5000, 7000], "as their last rows"


def test_a_row_that_is_no_good_is_a_gap_that_no_window_spans() -> None:
    series = Messages("csv", tensor(["v"], rows=2)).series(where="here")
    assert not list(series.captures(b"1", 0))
    with pytest.raises(DataError):
        series.captures(b"oops", 0)
    assert not list(series.captures(b"2", 0))
    assert rows(series.captures(b"3", 0)) == [[[2], [3]]]


def test_windows_of_two_senders_are_never_mixed() -> None:
    messages = Messages("json", tensor(["v"], rows=2))
    one, two = messages.series(where="a"), messages.series(where="b", meta={"topic": "b"})
    assert not list(one.captures(b"1", 0))
    assert not list(two.captures(b"10", 0))
    assert rows(one.captures(b"2", 0)) == [[[1], [2]]]
    (found,) = two.captures(b"20", 0)
    assert (found.data.tolist(), found.meta) == ([[10], [20]], {"topic": "b"})


def test_sound_is_cut_into_windows_that_know_their_time_and_rate() -> None:
    chunk = np.arange(1, 8, dtype="<f4") / 16
    found = captures("tensor", SOUND, chunk.tobytes())
    np.testing.assert_array_equal([one.data for one in found], [chunk[:4], chunk[2:6]])
    assert [one.taken_at_ns for one in found] == [1000 - 3_000_000, 1000 - 1_000_000]
    assert found[0].meta == {"sample_rate_hz": 1000}
    assert "no sound in float32" in refused("tensor", SOUND, b"\0" * 7)


def test_a_line_of_text_is_its_utf_8() -> None:
    (found,) = captures("text", TEXT, "grün → gut\r\n".encode(), b"  \n")
    assert found.data.tobytes().decode() == "grün → gut"
    assert found.data.dtype == np.uint8
    assert "no UTF-8: b'caf\\xe9'" in refused("text", TEXT, "café".encode("latin-1"))


@pytest.mark.parametrize(
    ("message", "fields"),
    [(b'"all is well"', None), (b'{"text":"all is well"}', None), (b'{"t":"all is well"}', ("t",))],
)
def test_text_may_come_in_json(message: bytes, fields: tuple[str, ...] | None) -> None:
    (found,) = captures("json", TEXT, message, fields=fields)
    assert found.data.tobytes() == b"all is well"
    assert "7 is no text" in refused("json", TEXT, b"7")


def test_a_picture_is_decoded_within_its_bounds() -> None:
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    pytest.importorskip("hedge.runtime.sources.pictures")
    import io  # noqa: PLC0415

    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    file = io.BytesIO()
    image.fromarray(pixels).save(file, "PNG")
    (found,) = captures("image", IMAGE, file.getvalue())
    np.testing.assert_array_equal(found.data, pixels)
    refused("image", IMAGE, file.getvalue(), max_pixels=34)
    refused("image", IMAGE, file.getvalue()[:40])


@pytest.mark.parametrize(
    ("form", "spec"),
    [
        ("text", tensor()),
        ("image", tensor()),
        ("json", SOUND),
        ("csv", TEXT),
        ("tensor", TEXT),
        ("json", IMAGE),
        ("tensor", IMAGE),
    ],
)
def test_a_form_that_the_bundle_cannot_take_is_refused_at_once(form: Format, spec: Input) -> None:
    with pytest.raises(ConfigError, match=f"takes {spec.kind}.*{form}.*format = "):
        Messages(form, spec)


@pytest.mark.parametrize(
    ("form", "spec", "options", "what"),
    [
        ("json", tensor(), {"fields": ("a",)}, "1 fields for 3 channels"),
        ("csv", tensor(), {"fields": ("a", "b", "c")}, "'a' is no column's number"),
        ("csv", tensor(), {"fields": ("-1", "0", "1")}, "'-1' is no column's number"),
        ("csv", tensor(), {"fields": ("0", "1")}, "2 fields for 3 channels"),
        ("tensor", tensor(), {"fields": XYZ}, "'tensor' has no fields"),
        ("json", TEXT, {"fields": ("a", "b")}, "one name is wanted"),
        ("text", TEXT, {"hop": 3}, "has no windows"),
        ("json", Input(kind="tensor", shape=(3,), dtype="float32"), {}, r"no \[input.tensor\]"),
    ],
)
def test_options_that_do_not_fit_are_refused_at_once(
    form: Format, spec: Input, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        Messages(form, spec, **options)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(XYZ) | st.text(max_size=2), inner, max_size=4)
    ),
)
_BYTES = (
    st.binary(max_size=60)
    | st.text(alphabet="0123456789.,-+eE_ \t\n\"'[]{}:nainf", max_size=60).map(str.encode)
    | _JSON.map(lambda value: json.dumps(value).encode())
)


@given(_BYTES, st.sampled_from([tensor(), tensor(["x"], rows=3, hop=2), TEXT, SOUND]))
@example(b"[1e308, 1, 1]", tensor())
@example(b'{"x": 1' + b"0" * 308 + b', "y": 0, "z": 0}', tensor())
def test_whatever_comes_is_a_capture_or_a_data_error(message: bytes, spec: Input) -> None:
    for form in get_args(Format):
        try:
            messages = Messages(form, spec)
        except ConfigError:
            continue
        found, told = [], ""
        try:
            found = list(messages.series(where="here").captures(message, 1))
        except DataError as error:
            told = str(error)
        assert len(told) < 400
        assert "\n" not in told
        for one in found:
            assert np.isfinite(one.data).all()
            if spec.tensor is not None:
                assert one.data.shape == spec.shape


# ---- Where one message ends and the next begins.


def _fed(frames: Lines | Lengths, data: bytes, cuts: Iterable[int]) -> list[bytes | str]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    found = [one for a, b in pairwise(edges) for one in frames.feed(data[a:b])]
    return [one if isinstance(one, bytes) else "bad" for one in [*found, *frames.end()]]


@given(st.lists(st.binary(max_size=20)), st.lists(st.integers(0, 1000), max_size=8))
def test_messages_after_their_lengths_are_found_however_they_are_cut(
    messages: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(struct.pack("<I", len(one)) + one for one in messages)
    assert _fed(Lengths(max_bytes=20, where="here"), data, cuts) == messages


@given(
    st.lists(st.binary(max_size=20).filter(lambda one: b"\n" not in one)),
    st.lists(st.integers(0, 1000), max_size=8),
)
def test_lines_are_found_however_they_are_cut_and_long_ones_are_told_once(
    lines: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(one + b"\n" for one in lines)
    expected = [one.removesuffix(b"\r") if len(one) <= 8 else "bad" for one in lines]
    assert _fed(Lines(max_bytes=8, where="here"), data, cuts) == expected


def test_the_last_line_needs_no_end_and_the_first_may_have_begun_before() -> None:
    assert _fed(Lines(max_bytes=8, where="here"), b"a\r\nbc", []) == [b"a", b"bc"]
    assert _fed(Lines(max_bytes=8, where="here", mid_line=True), b"2,3\nbc\n", []) == [b"bc"]
    assert _fed(Lines(max_bytes=2, where="here", mid_line=True), b"long line\nbc\n", []) == [b"bc"]


def test_an_endless_line_does_not_grow() -> None:
    lines = Lines(max_bytes=100, where="here")
    found = [one for _ in range(1000) for one in lines.feed(b"x" * 64)]
    assert len(found) == 1
    assert "a line of more than 100 bytes" in str(found[0])
    assert len(lines._begun) <= 100


def test_a_length_that_cannot_be_is_refused_before_anything_is_kept() -> None:
    frames = Lengths(max_bytes=64, where="here")
    good, bad = frames.feed(struct.pack("<I", 2) + b"ok" + b"hello, this is no length")
    assert good == b"ok"
    assert isinstance(bad, FramingError)
    assert "a message of 1819043176 bytes, and max_bytes is 64" in str(bad)
    assert frames.feed(b"more" * 100) == []
    assert not frames._begun


def test_a_message_that_is_cut_off_by_the_end_is_told() -> None:
    frames = Lengths(max_bytes=64, where="here")
    assert frames.feed(b"\x05\0\0\0abc") == []
    (told,) = frames.end()
    assert "the end comes after 7 bytes" in str(told)


# ---- What has come, given out a few at a time.


def test_an_inbox_gives_captures_in_order_a_few_at_a_time_and_errors_alone() -> None:
    inbox = Inbox()
    series = Messages("json", tensor(["v"])).series(where="here")
    inbox.put(series, json.dumps(list(range(150))).encode(), 1)
    inbox.put(series, b"oops", 2)
    inbox.put(series, DataError("too long", where="here"), 3)
    inbox.put(series, b"150", 4)
    found: list[Any] = []
    while inbox:
        try:
            some = inbox.take()
        except DataError as error:
            found.append(error.what[:8])
        else:
            assert len(some) <= 64
            found += [int(one.data[0, 0]) for one in some]
    assert found == [*range(150), "no JSON:", "too long", 150]
    assert inbox.take() == []
