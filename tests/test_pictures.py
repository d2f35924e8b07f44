"""Files of pictures become RGB pixels, or one clear line; and the part that matters is cut out."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.errors import ConfigError, DataError
from hedge.runtime.sources.pictures import check_region, cut, decode_picture

image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

_TOP_LEFT_TURNED = {  # of a picture whose rows are 0 and 1: what EXIF's orientations make of it
    1: [[10, 20, 30], [40, 50, 60]],
    2: [[30, 20, 10], [60, 50, 40]],
    3: [[60, 50, 40], [30, 20, 10]],
    4: [[40, 50, 60], [10, 20, 30]],
    5: [[10, 40], [20, 50], [30, 60]],
    6: [[40, 10], [50, 20], [60, 30]],
    7: [[60, 30], [50, 20], [40, 10]],
    8: [[30, 60], [20, 50], [10, 40]],
}

_PEAK = """
import resource, sys
from pathlib import Path
from hedge.models.errors import DataError
from hedge.runtime.sources.pictures import decode_picture

def peak_kb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

decode_picture((Path(sys.argv[1]) / "small").read_bytes(), max_pixels=10_000, where="door")
files = {file.name: file.read_bytes() for file in Path(sys.argv[1]).iterdir()}
before_kb = peak_kb()
for name, data in files.items():
    try:
        decode_picture(data, max_pixels=10_000, where="door")
    except DataError as error:
        assert "more than the 10000 pixels" in str(error), error
        print(f"{name}: refused")
print(peak_kb() - before_kb)
"""


def pixels(height: int = 7, width: int = 5, *, seed: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(picture: Any, format_: str = "PNG", **options: Any) -> bytes:  # noqa: ANN401
    out = io.BytesIO()
    found = image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    found.save(out, format_, **options)
    return out.getvalue()


def decoded(data: bytes, *, max_pixels: int = 10_000) -> NDArray[np.uint8]:
    return decode_picture(data, max_pixels=max_pixels, where="door")


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_a_picture_kept_without_loss_is_itself_again(format_: str) -> None:
    options = {"lossless": True} if format_ == "WEBP" else {}
    found = decoded(encoded(pixels(), format_, **options))
    np.testing.assert_array_equal(found, pixels())
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous


def test_a_jpeg_is_near_to_what_it_was() -> None:
    flat = np.full((16, 24, 3), (200, 30, 90), np.uint8)
    flat[:, :12] = (20, 180, 60)
    found = decoded(encoded(flat, "JPEG", quality=100, subsampling=0))
    assert np.abs(found.astype(int) - flat).max() <= 4


@pytest.mark.parametrize(("orientation", "expected"), _TOP_LEFT_TURNED.items())
@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_the_orientation_that_a_camera_notes_is_applied(
    orientation: int, expected: list[list[int]], format_: str
) -> None:
    stored = image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8))
    exif = image.Exif()
    exif[0x0112] = orientation
    found = decoded(encoded(stored, format_, exif=exif))
    assert found[:, :, 0].tolist() == expected


def test_a_picture_with_damaged_metadata_is_decoded_without_a_word() -> None:
    data = encoded(pixels(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(decoded(data), pixels())


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "PPM"])
def test_of_sixteen_bits_the_upper_eight_are_taken(format_: str) -> None:
    grey = np.array([[0, 255, 256, 0x1234], [0x8000, 0xFEFF, 0xFF00, 0xFFFF]], np.uint16)
    found = decoded(encoded(grey, format_))
    assert found[:, :, 0].tolist() == [[0, 0, 1, 0x12], [0x80, 0xFE, 0xFF, 0xFF]]
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 2])


def test_transparency_is_ignored_as_training_pipelines_do() -> None:
    clear = np.dstack([pixels(), np.zeros((7, 5), np.uint8)])
    np.testing.assert_array_equal(decoded(encoded(clear)), pixels())


def test_a_palette_with_transparency_gives_its_colours_without_a_word() -> None:
    picture = image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "L").convert("P")
    picture.putpalette([9, 8, 7, 60, 50, 40, 255, 0, 128])
    data = encoded(picture, transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoded(data).tolist() == [
            [[9, 8, 7], [60, 50, 40]],
            [[255, 0, 128], [60, 50, 40]],
        ]


def test_grey_one_bit_and_cmyk_become_rgb() -> None:
    grey = np.array([[0, 200, 17]], np.uint8)
    assert decoded(encoded(grey))[0, :, 1].tolist() == [0, 200, 17]
    ink = image.fromarray(np.array([[1, 0, 1]], np.uint8) * 255).convert("1")
    assert decoded(encoded(ink))[0, :, 2].tolist() == [255, 0, 255]
    printed = image.new("CMYK", (2, 2), (0, 255, 255, 0))
    found = decoded(encoded(printed, "TIFF"))
    assert found[0, 0, 0] > 200
    assert found[0, 0, 1] < 60


def test_of_several_pictures_the_first_is_taken() -> None:
    first, second = (image.new("RGB", (2, 2), (value, 0, 0)) for value in (250, 5))
    data = encoded(first, "TIFF", save_all=True, append_images=[second])
    assert decoded(data)[0, 0].tolist() == [250, 0, 0]


def test_pictures_that_are_too_large_are_refused_by_their_headers(tmp_path: Path) -> None:
    bomb = image.new("L", (9000, 9000))
    for format_, options in (("PNG", {}), ("GIF", {}), ("TIFF", {"compression": "tiff_lzw"})):
        (tmp_path / format_).write_bytes(encoded(bomb, format_, **options))
    (tmp_path / "WEBP").write_bytes(encoded(bomb.crop((0, 0, 9000, 3000)), "WEBP", method=0))
    (tmp_path / "small").write_bytes(encoded(pixels(40, 50)))
    found = subprocess.run(
        [sys.executable, "-c", _PEAK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    *refusals, grown_kb = found.stdout.splitlines()
    assert sorted(refusals) == [f"{name}: refused" for name in ("GIF", "PNG", "TIFF", "WEBP")]
    assert int(grown_kb) < 20_000, "decoded, the least of them has 81 MB"


def test_a_picture_of_absurd_size_is_refused_in_a_line() -> None:
    header = b"P6 1000000 1000000 255\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"door: a picture .* the 10000 pixels allowed"):
            decoded(header)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP"])
def test_a_picture_that_is_cut_short_is_refused(format_: str) -> None:
    whole = encoded(pixels(40, 50), format_)
    for length in (0, 1, 10, len(whole) // 3, len(whole) * 3 // 4):
        with pytest.raises(DataError, match="door: no picture that can be decoded") as caught:
            decoded(whole[:length])
        assert "\n" not in str(caught.value)
        assert "BytesIO" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\xff\xd8\xff" * 99],
)
def test_what_is_no_picture_or_a_program_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"no picture .*JPEG, PNG"):
        decoded(data)


def test_pixels_of_no_known_range_are_refused() -> None:
    with pytest.raises(DataError, match="fractions of no known range"):
        decoded(encoded(np.array([[0.5, 2.0]], np.float32), "TIFF"))


def test_damaged_files_end_in_pixels_or_in_a_line_and_never_in_a_warning() -> None:
    rng = np.random.default_rng(11)
    wholes = [encoded(pixels(20, 30), one) for one in ("PNG", "JPEG", "GIF", "TIFF", "WEBP")]
    refused = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(1000):
            data = bytearray(wholes[number % len(wholes)])
            for place in rng.integers(0, len(data), 4):
                data[place] = rng.integers(256)
            try:
                found = decoded(bytes(data))
            except DataError:
                refused += 1
            else:
                assert found.ndim == 3
                assert found.size <= 3 * 10_000
    assert refused > 100


def test_several_threads_decode_at_once() -> None:
    data, wrong = encoded(pixels(60, 80)), list[int]()

    def decode() -> None:
        wrong.extend(place for place in range(50) if not (decoded(data) == pixels(60, 80)).all())

    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_region_is_cut_to_whole_pixels() -> None:
    picture = pixels(8, 10)
    np.testing.assert_array_equal(cut(picture, (0.1, 0.5, 0.4, 0.25)), picture[4:6, 1:5])
    np.testing.assert_array_equal(cut(picture, (0.0, 0.0, 1.0, 1.0)), picture)
    assert cut(picture, None) is picture
    assert cut(picture, (0.5, 0.0, 0.5, 1.0)).flags.c_contiguous


def test_of_any_region_at_least_one_pixel_is_left() -> None:
    for size in (1, 2, 3, 7):
        for begin in (0.0, 0.3, 0.999):
            found = cut(pixels(size, size), (begin, begin, 0.001, 0.001))
            assert found.shape == (1, 1, 3)


@pytest.mark.parametrize(
    "region", [(0.0, 0.0, 0.0, 1.0), (0.0, 0.0, 1.0, 0.0), (0.6, 0.0, 0.5, 1.0), (0, 0.9, 1, 0.2)]
)
def test_a_region_that_is_none_is_refused(region: tuple[float, float, float, float]) -> None:
    with pytest.raises(ConfigError, match=r"door\.region: .* is not a part of the picture"):
        check_region(region, where="door.region")
    check_region(None, where="door.region")
    check_region((0.25, 0.0, 0.75, 1.0), where="door.region")
