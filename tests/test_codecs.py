"""How the numbers of a tensor travel."""

from __future__ import annotations

import importlib.util
import io
import math
import struct
import sys
import tracemalloc
import zlib
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from hedge.models.errors import ConfigError, MissingExtraError, WireError
from hedge.models.manifest import DType
from hedge.uplink import codecs, wire
from hedge.uplink.codecs import Codec

LOSSLESS: tuple[Codec, ...] = ("raw", "zlib", "zstd")
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, max_side=6)


def _skip_without(codec: Codec) -> None:
    library = {"zstd": "zstandard", "jpeg": "PIL"}.get(codec)
    if library is not None and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def _round_trip(array: NDArray[Any], codec: Codec) -> NDArray[Any]:
    dtype = array.dtype.name
    codecs.check(codec, dtype=dtype, shape=array.shape)
    body = codecs.encode(array, dtype=dtype, codec=codec)
    assert len(body) <= codecs.longest(codec, dtype=dtype, shape=array.shape)
    found = codecs.decode(body, dtype=dtype, shape=array.shape, codec=codec)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert not found.flags.writeable
    return found


def test_every_codec_says_what_it_loses() -> None:
    assert set(codecs.LOSS) == set(get_args(Codec)) == set(get_args(wire.Codec))
    assert {codec for codec in codecs.LOSS if codecs.LOSS[codec] == "none"} == set(LOSSLESS)


@pytest.mark.parametrize("codec", LOSSLESS)
@pytest.mark.parametrize("dtype", get_args(DType))
@given(data=st.data())
def test_lossless_codecs_return_every_bit(codec: Codec, dtype: str, data: st.DataObject) -> None:
    _skip_without(codec)
    array = data.draw(hnp.arrays(dtype, SHAPES))
    assert _round_trip(array, codec).tobytes() == array.tobytes()


@pytest.mark.parametrize("codec", LOSSLESS)
def test_an_array_in_any_order_of_memory_travels_in_c_order(codec: Codec) -> None:
    _skip_without(codec)
    array = np.arange(24, dtype=">i2").reshape(4, 6).T[:, ::2]
    body = codecs.encode(array, dtype="int16", codec=codec)
    found = codecs.decode(body, dtype="int16", shape=(6, 2), codec=codec)
    assert np.array_equal(found, array)


@pytest.mark.parametrize("codec", ["float16", "float16+zlib"])
@given(array=hnp.arrays(np.float32, SHAPES, elements=st.floats(-65504, 65504, width=32)))
def test_half_precision_keeps_the_error_that_it_states(
    codec: Codec, array: NDArray[np.float32]
) -> None:
    found = _round_trip(array, codec).astype(np.float64)
    exact = array.astype(np.float64)
    bound = np.where(np.abs(exact) >= 2.0**-14, np.abs(exact) * 2.0**-11, 2.0**-25)
    assert (np.abs(found - exact) <= bound).all()


def test_half_precision_takes_half_the_bytes() -> None:
    assert len(codecs.encode(np.ones((3, 5)), dtype="float32", codec="float16")) == 30


@pytest.mark.parametrize("codec", ["float16", "float16+zlib"])
def test_what_half_precision_cannot_hold_is_refused_and_not_made_infinite(codec: Codec) -> None:
    for value in (65_520.0, -1e5, 3e38):
        with pytest.raises(WireError, match=r"beyond half precision.*raw, zlib or zstd"):
            codecs.encode(np.array([1.0, value], np.float32), dtype="float32", codec=codec)
    assert _round_trip(np.array([65_519.0], np.float32), codec).tolist() == [65_504.0]


def test_infinities_and_nan_survive_half_precision() -> None:
    found = _round_trip(np.array([np.inf, -np.inf, np.nan, -0.0], np.float32), "float16")
    assert found[0] == np.inf
    assert found[1] == -np.inf
    assert np.isnan(found[2])
    assert math.copysign(1, found[3]) == -1


@pytest.mark.parametrize("shape", [(1, 1), (17, 40), (17, 40, 1), (17, 40, 3), (1, 300, 3)])
def test_a_smooth_image_comes_out_of_jpeg_nearly_as_it_was(shape: tuple[int, ...]) -> None:
    _skip_without("jpeg")
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    planes = np.stack([3 * rows + 2 * columns, 255 - 2 * columns, 100 + rows], -1)
    image = (planes if shape[2:] == (3,) else planes[..., 0]).reshape(shape).clip(0, 255)
    found = _round_trip(image.astype(np.uint8), "jpeg")
    assert np.abs(found.astype(int) - image).mean() < 3


def test_jpeg_is_of_quality_90_and_keeps_all_of_the_colours() -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, ::2, 0] = pixels[:, 1::2, 2] = 200  # red and blue columns
    body = codecs.encode(pixels, dtype="uint8", codec="jpeg")
    with image.open(io.BytesIO(body)) as picture:
        first = [picture.quantization[table][0] for table in (0, 1)]
    assert first == [(16 * 20 + 50) // 100, (17 * 20 + 50) // 100]  # IJG: 200 - 2 * 90 = 20
    assert np.abs(_round_trip(pixels, "jpeg").astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("shape", [(8, 8), (200, 1), (1, 200, 3), (64, 64, 1), (96, 96, 3)])
def test_not_even_noise_outgrows_the_bound_of_jpeg(shape: tuple[int, ...]) -> None:
    _skip_without("jpeg")
    rng = np.random.default_rng(2)
    for image in (rng.integers(0, 256, shape), 255 * rng.integers(0, 2, shape)):
        _round_trip(image.astype(np.uint8), "jpeg")


@pytest.mark.parametrize("codec", ["zlib", "zstd", "float16+zlib"])
def test_not_even_noise_outgrows_the_bound_of_packing(codec: Codec) -> None:
    _skip_without(codec)
    array = np.random.default_rng(4).normal(size=1 << 18).astype(np.float32)
    _round_trip(array, codec)


@pytest.mark.parametrize(
    ("codec", "dtype", "shape", "says"),
    [
        ("float16", "uint8", (4,), "float16 is for float32"),
        ("float16", "float16", (4,), "not float16"),
        ("float16+zlib", "int16", (4,), r"float16\+zlib is for float32"),
        ("jpeg", "float32", (8, 8), "uint8 images"),
        ("jpeg", "uint8", (64,), "uint8 images"),
        ("jpeg", "uint8", (3, 8, 8), "uint8 images"),
        ("jpeg", "uint8", (8, 8, 4), "uint8 images"),
        ("jpeg", "uint8", (65_501, 8), "uint8 images"),
        ("jpeg", "uint8", (1, 8, 8, 3), "uint8 images"),
    ],
)
def test_a_codec_that_does_not_fit_the_input_is_refused_by_its_key(
    codec: Codec, dtype: str, shape: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        codecs.check(codec, dtype=dtype, shape=shape, where="stream[0].codec")
    assert refused.value.where == "stream[0].codec"
    assert refused.value.hint is not None
    with pytest.raises(WireError, match=says):
        codecs.decode(b"\0" * 8, dtype=dtype, shape=shape, codec=codec)


@pytest.mark.parametrize(
    ("codec", "module", "says"),
    [("zstd", "zstandard", "zstandard"), ("jpeg", "PIL", "Pillow")],
)
def test_a_library_that_is_missing_is_named_with_its_extra(
    codec: Codec, module: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(codecs, "find_spec", lambda name: None if name == module else found(name))
    with pytest.raises(MissingExtraError, match=rf"{says} is not installed.*\[{codec}\]"):
        codecs.check(codec, dtype="uint8", shape=(8, 8))
    body = b"\xff\xda" * 4
    with pytest.raises(WireError, match=f"{says} is not installed"):
        codecs.decode(body, dtype="uint8", shape=(8, 8), codec=codec)


@pytest.mark.parametrize("codec", [codec for codec in get_args(Codec) if codec != "raw"])
def test_a_body_cut_anywhere_is_refused(codec: Codec) -> None:
    _skip_without(codec)
    dtype = "uint8" if codec == "jpeg" else "float32"
    array = np.random.default_rng(6).integers(0, 255, (12, 10)).astype(dtype)
    body = codecs.encode(array, dtype=dtype, codec=codec)
    last = len(body) - (2 if codec == "jpeg" else 0)  # a JPEG may lack its end marker
    for size in range(last):
        with pytest.raises(WireError):
            codecs.decode(body[:size], dtype=dtype, shape=(12, 10), codec=codec)


@pytest.mark.parametrize("codec", ["raw", "zlib", "zstd", "float16", "float16+zlib"])
@pytest.mark.parametrize("size", [0, 1, 3, 5, 8, 100])
def test_a_body_of_other_numbers_than_its_shape_is_refused(codec: Codec, size: int) -> None:
    _skip_without(codec)
    body = codecs.encode(np.ones(size), dtype="float32", codec=codec)
    with pytest.raises(WireError):
        codecs.decode(body, dtype="float32", shape=(2, 2), codec=codec)


@pytest.mark.parametrize("codec", ["zlib", "zstd", "float16+zlib"])
def test_what_follows_a_packed_body_is_refused(codec: Codec) -> None:
    _skip_without(codec)
    body = codecs.encode(np.ones(4), dtype="float32", codec=codec)
    for more in (b"\0", body):
        with pytest.raises(WireError):
            codecs.decode(body + more, dtype="float32", shape=(2, 2), codec=codec)


@pytest.mark.parametrize("codec", ["zlib", "zstd", "float16+zlib"])
def test_a_bomb_is_refused_without_being_unpacked(codec: Codec) -> None:
    _skip_without(codec)
    zeros = np.zeros(1 << 25, np.uint8)  # 32 MiB, of which 64 or 32 KiB are wanted
    bomb = codecs.encode(zeros, dtype="uint8", codec="zstd" if codec == "zstd" else "zlib")
    assert len(bomb) <= 33_000
    tracemalloc.start()
    with pytest.raises(WireError, match="other than"):
        codecs.decode(bomb, dtype="float32", shape=(128, 128), codec=codec)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 1 << 20


def test_a_frame_of_zstd_that_hides_its_size_is_refused() -> None:
    zstandard = pytest.importorskip("zstandard")
    body = zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * 16)
    with pytest.raises(WireError, match="other than 16 bytes"):
        codecs.decode(body, dtype="float32", shape=(4,), codec="zstd")


def _photo(shape: tuple[int, ...], **options: object) -> bytes:
    """Return a JPEG as others may write it."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    mode = "CMYK" if shape[2:] == (4,) else None
    pixels = (np.indices(shape).sum(0) * 5 % 256).astype(np.uint8)
    picture = image.fromarray(pixels) if mode is None else image.new(mode, (shape[1], shape[0]))
    picture.save(out, "JPEG", **options)
    return out.getvalue()


def test_a_jpeg_that_claims_other_pixels_is_refused_before_any_is_decoded() -> None:
    body = _photo((64, 64))
    at = body.index(b"\xff\xc0") + 5
    for height, width in [(65_500, 65_500), (64, 65_500), (32, 128), (0, 64), (65, 64)]:
        forged = body[:at] + struct.pack(">HH", height, width) + body[at + 4 :]
        with pytest.raises(WireError):
            codecs.decode(forged, dtype="uint8", shape=(64, 64), codec="jpeg")


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((64, 64, 3), (64, 64)), ((64, 64), (64, 64, 3)), ((64, 64, 4), (64, 64, 3))],
)
def test_a_jpeg_of_other_colours_is_refused(
    shape: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    with pytest.raises(WireError, match="image of"):
        codecs.decode(_photo(shape), dtype="uint8", shape=wanted, codec="jpeg")


def test_a_jpeg_of_many_scans_is_refused() -> None:
    progressive = _photo((64, 64, 3), progressive=True)
    with pytest.raises(WireError, match="one scan"):
        codecs.decode(progressive, dtype="uint8", shape=(64, 64, 3), codec="jpeg")


def test_a_jpeg_with_exif_data_is_refused() -> None:
    image = pytest.importorskip("PIL.Image")
    exif = image.Exif()
    exif[0x0112] = 6  # turn me
    with pytest.raises(WireError, match="Exif"):
        codecs.decode(_photo((64, 64), exif=exif), dtype="uint8", shape=(64, 64), codec="jpeg")


def test_another_jpeg_encoders_image_is_read() -> None:
    body = _photo((40, 24, 3), quality=60, subsampling=2)
    found = codecs.decode(body, dtype="uint8", shape=(40, 24, 3), codec="jpeg")
    assert found.shape == (40, 24, 3)


def test_what_is_no_jpeg_is_refused() -> None:
    image = pytest.importorskip("PIL.Image")
    png = io.BytesIO()
    image.new("L", (8, 8)).save(png, "PNG")
    for body in (b"", png.getvalue(), b"\xff\xd8\xff\xda", png.getvalue() + b"\xff\xda"):
        with pytest.raises(WireError):
            codecs.decode(body, dtype="uint8", shape=(8, 8), codec="jpeg")


@pytest.mark.parametrize("codec", [codec for codec in get_args(Codec) if codec != "raw"])
@given(data=st.data())
def test_mutated_bodies_are_a_tensor_or_wire_errors(codec: Codec, data: st.DataObject) -> None:
    _skip_without(codec)
    dtype = "uint8" if codec == "jpeg" else "float32"
    array = np.arange(96).reshape(8, 12).astype(dtype)
    body = bytearray(codecs.encode(array, dtype=dtype, codec=codec))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        if data.draw(st.booleans()):
            body[place] = data.draw(st.integers(0, 255))
        else:
            body[place : place + 2] = data.draw(st.binary(min_size=1, max_size=6))
    try:
        found = codecs.decode(bytes(body), dtype=dtype, shape=(8, 12), codec=codec)
    except WireError:
        return
    assert (found.dtype.name, found.shape) == (dtype, (8, 12))


@pytest.mark.parametrize("codec", get_args(Codec))
@given(body=st.binary(max_size=100))
def test_any_bytes_at_all_are_a_tensor_or_wire_errors(codec: Codec, body: bytes) -> None:
    _skip_without(codec)
    dtype = "uint8" if codec == "jpeg" else "float32"
    try:
        found = codecs.decode(body, dtype=dtype, shape=(3, 3), codec=codec)
    except WireError:
        return
    assert found.shape == (3, 3)


def test_the_optional_libraries_are_loaded_on_first_use_only() -> None:
    assert codecs.encode(np.ones(2), dtype="float32", codec="zlib")[:1] == zlib.compress(b"")[:1]
    assert "hedge.uplink.codecs" in sys.modules
    assert not {"zstandard", "PIL"} & set(vars(codecs))
