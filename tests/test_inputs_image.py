"""Pictures become samples by the numbers of the libraries that models are trained with."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.errors import BundleError, DataError
from hedge.models.inputs.fit import Box, Size, fitted
from hedge.models.inputs.preprocess import Preprocess, preprocessor
from hedge.models.inputs.resize import linear_resizer, luma
from hedge.models.manifest import ImageInput, Input

image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
operations = pytest.importorskip("PIL.ImageOps", reason="Pillow is not installed")

Pixels = NDArray[np.uint8]

_FROM = [(1, 1), (1, 7), (9, 1), (2, 3), (33, 65), (100, 47)]  # (height, width)
_TO = [(1, 1), (3, 5), (17, 9), (96, 96)]
_FILTERS = ["bilinear", "bicubic", "lanczos", "box", "nearest"]


def pixels(height: int, width: int, *, seed: int = 5) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def spec(shape: tuple[int, ...], layout: str | None = None, **how: Any) -> Input:  # noqa: ANN401
    return Input(kind="image", shape=shape, dtype="uint8", layout=layout, image=ImageInput(**how))


def made(found: Input) -> Preprocess:
    return preprocessor(found, read=lambda _: b"", where="door")


@pytest.mark.parametrize("size", _FROM)
@pytest.mark.parametrize("filter_", _FILTERS)
def test_stretched_it_is_what_pillow_makes(size: tuple[int, int], filter_: str) -> None:
    picture = pixels(*size)
    for height, width in _TO:
        found = made(spec((height, width, 3), resize=filter_))(picture, {})
        expected = image.fromarray(picture).resize(
            (width, height), image.Resampling[filter_.upper()]
        )
        np.testing.assert_array_equal(found, np.asarray(expected))
        assert found.flags.c_contiguous


@pytest.mark.parametrize("size", _FROM)
@pytest.mark.parametrize("filter_", _FILTERS)
def test_cropped_it_is_what_pillows_fit_makes(size: tuple[int, int], filter_: str) -> None:
    picture = pixels(*size)
    for height, width in _TO:
        found = made(spec((height, width, 3), resize=filter_, fit="crop"))(picture, {})
        expected = operations.fit(
            image.fromarray(picture), (width, height), image.Resampling[filter_.upper()]
        )
        np.testing.assert_array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("size", _FROM)
def test_letterboxed_it_is_what_pillow_makes_within_borders(size: tuple[int, int]) -> None:
    picture = pixels(*size)
    for height, width in _TO:
        found = made(spec((height, width, 3), fit="letterbox", pad=99))(picture, {})
        scale = min(height / size[0], width / size[1])
        inner = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        expected = np.full((height, width, 3), 99, np.uint8)
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        expected[top : top + inner[0], left : left + inner[1]] = np.asarray(
            image.fromarray(picture).resize(inner[::-1], image.Resampling.BILINEAR)
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("size", [*_FROM, (240, 320)])
@pytest.mark.parametrize("colour", ["rgb", "grey"])
def test_linear_is_what_torch_interpolates(size: tuple[int, int], colour: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    picture = pixels(*size)
    planes = picture.transpose(2, 0, 1)
    if colour == "grey":
        planes = np.asarray(image.fromarray(picture).convert("L"))[np.newaxis]
    for height, width in _TO:
        found = made(spec((len(planes), height, width), "CHW", resize="linear", colour=colour))(
            picture, {}
        )
        expected = torch.nn.functional.interpolate(
            torch.from_numpy(planes[np.newaxis].astype(np.float64)),
            size=(height, width),
            mode="bilinear",
            align_corners=False,
        )[0].numpy()
        assert np.abs(found - expected).max() <= 0.5 + 1e-3, "rounded to the nearest, and no more"


def test_linear_between_four_pixels_is_the_written_out_formula() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[:, :, 0] = [[0, 100], [200, 40]]
    found = made(spec((4, 4, 3), resize="linear"))(picture, {})
    # centres at -0.25, 0.25, 0.75, 1.25 of the pixels, clipped to 0 and 1
    share = np.array([0, 0.25, 0.75, 1])
    x, y = share[np.newaxis], share[:, np.newaxis]
    expected = (1 - y) * ((1 - x) * 0 + x * 100) + y * ((1 - x) * 200 + x * 40)
    np.testing.assert_array_equal(found[:, :, 0], np.rint(expected))
    assert not found[:, :, 1:].any()


def test_linear_rounds_halves_to_even() -> None:
    row = np.repeat(np.array([[0, 1, 2, 3]], np.uint8)[:, :, np.newaxis], 3, axis=2)
    found = made(spec((1, 2, 3), resize="linear"))(row, {})
    assert found[0, :, 0].tolist() == [0, 2], "of 0.5 and 2.5"


@pytest.mark.parametrize("fit", ["crop", "letterbox"])
def test_linear_keeps_proportions_too(fit: str) -> None:
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, :4] = 200
    found = made(spec((4, 4, 3), resize="linear", fit=fit, pad=7))(picture, {})
    if fit == "crop":
        np.testing.assert_array_equal(found, picture[:, 2:6])
    else:
        assert found[:, :, 0].tolist() == [
            [7, 7, 7, 7],
            [200, 200, 0, 0],
            [200, 200, 0, 0],
            [7, 7, 7, 7],
        ]


def test_the_crop_of_an_odd_picture_is_its_middle() -> None:
    assert fitted(Size(7, 4), Size(2, 2), "crop").box == Box(1.5, 0, 5.5, 4)
    assert fitted(Size(4, 7), Size(2, 2), "crop").box == Box(0, 1.5, 4, 5.5)
    assert fitted(Size(3, 1), Size(4, 2), "crop").box == Box(0.5, 0, 2.5, 1)


def test_an_odd_pixel_of_border_is_below_and_on_the_right() -> None:
    assert fitted(Size(10, 5), Size(10, 8), "letterbox").top == 1
    assert fitted(Size(5, 10), Size(8, 10), "letterbox").left == 1


def test_bgr_is_rgb_the_other_way_round() -> None:
    picture = pixels(6, 9)
    rgb = made(spec((6, 9, 3)))(picture, {})
    np.testing.assert_array_equal(rgb, picture)
    bgr = made(spec((6, 9, 3), colour="bgr"))(picture, {})
    np.testing.assert_array_equal(bgr[:, :, 0], picture[:, :, 2])
    np.testing.assert_array_equal(bgr[:, :, 2], picture[:, :, 0])


@pytest.mark.parametrize("resize", ["bilinear", "linear"])
def test_layouts_hold_the_same_numbers_in_another_order(resize: str) -> None:
    picture = pixels(11, 6)
    hwc = made(spec((5, 8, 3), resize=resize))(picture, {})
    chw = made(spec((3, 5, 8), "CHW", resize=resize))(picture, {})
    np.testing.assert_array_equal(chw, hwc.transpose(2, 0, 1))
    assert chw.flags.c_contiguous
    hw = made(spec((5, 8), "HW", resize=resize, colour="grey"))(picture, {})
    one = made(spec((5, 8, 1), resize=resize, colour="grey"))(picture, {})
    np.testing.assert_array_equal(one[:, :, 0], hw)


def test_grey_is_pillows_luma_of_every_colour() -> None:
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), -1).reshape(-1, 3)
    picture = colours.astype(np.uint8)
    expected = np.asarray(image.fromarray(picture[np.newaxis]).convert("L"))[0]
    np.testing.assert_array_equal(luma(picture)[:, 0], expected)


def test_a_resolution_may_change_midway_and_change_back() -> None:
    prepare = made(spec((7, 5, 3), resize="linear"))
    sizes = [(20, 30), (9, 4), (31, 17), (5, 5), (6, 6), (7, 7), (20, 30)]
    found = [prepare(pixels(*size), {}) for size in sizes]
    for size, one in zip(sizes, found, strict=True):
        fresh = made(spec((7, 5, 3), resize="linear"))(pixels(*size), {})
        np.testing.assert_array_equal(one, fresh)


def test_a_picture_that_is_part_of_a_larger_array_is_read_rightly() -> None:
    whole = pixels(30, 40)
    part = whole[3:20, 5:30]
    for resize in ("bilinear", "linear"):
        prepare = made(spec((8, 8, 3), resize=resize))
        np.testing.assert_array_equal(prepare(part, {}), prepare(part.copy(), {}))


@pytest.mark.parametrize(
    "capture",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_what_is_no_picture_is_refused(capture: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="is no picture in RGB"):
        made(spec((4, 4, 3)))(capture, {})


def test_linear_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    resize = linear_resizer(grey=False)
    assert resize(pixels(4, 4), Box(0, 0, 4, 4), Size(2, 2)).shape == (2, 2, 3)
    with pytest.raises(Exception, match=r"Pillow is not installed.*hedge-runtime\[image\]"):
        made(spec((4, 4, 3)))


def test_without_its_table_pictures_cannot_become_samples() -> None:
    bare = Input(kind="image", shape=(4, 4, 3), dtype="uint8")
    with pytest.raises(BundleError, match=r"no \[input\.image\]"):
        made(bare)
