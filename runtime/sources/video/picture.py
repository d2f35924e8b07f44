"""From a decoded frame to a picture: the region that is asked for, upright, in RGB."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

Region = tuple[float, float, float, float]
_MS = Fraction(1, 1000)

# By which matrix of swscale the colours of a frame were made (AVColorSpace); all else is BT.601.
# RGB has none, but PyAV before 17 heeds the frame's only where another one is asked for.
_BT709, _BT601, _BT2020 = 1, 5, 9  # SWS_CS_ITU709, SWS_CS_ITU601, SWS_CS_BT2020
_LIMITED, _WHOLE = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG
_MATRICES = {1: _BT709, 4: 4, 7: 7, 9: _BT2020, 10: _BT2020}


class Pictures:
    """Makes pictures of frames, (height, width, 3) uint8 in RGB, by one thread.

    What is outside ``region`` (left, top, width, height as shares) is cut off before the
    colours are converted; its edges are rounded to even pixels, where chroma begins.
    """

    def __init__(self, region: Region | None) -> None:
        self._region = region
        self._reformatter = VideoReformatter()
        self._options = _one_thread(self._reformatter)
        self._graph: tuple[tuple[int, int, str], Graph] | None = None

    def of(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return the picture that a frame shows."""
        turned = round(frame.rotation / 90) % 4
        if turned:  # a film of a telephone: the region is that of the upright picture
            upright = np.rot90(self._rgb(frame), turned)
            return np.ascontiguousarray(self._cut(upright))
        return self._rgb(frame if self._region is None else self._cropped(frame))

    def _rgb(self, frame: VideoFrame) -> NDArray[np.uint8]:
        options = self._options if frame.format.is_rgb else self._options | _colours(frame)
        converted = self._reformatter.reformat(frame, format="rgb24", **options)
        return np.asarray(converted.to_ndarray(), np.uint8)

    def _cut(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._region is None:
            return picture
        left, top, width, height = box(self._region, picture.shape[1], picture.shape[0])
        return picture[top : top + height, left : left + width]

    def _cropped(self, frame: VideoFrame) -> VideoFrame:
        form = frame.width, frame.height, frame.format.name
        if self._graph is None or self._graph[0] != form:
            self._graph = form, self._crop(frame)
        graph = self._graph[1]
        graph.vpush(frame)
        return graph.vpull()

    def _crop(self, frame: VideoFrame) -> Graph:
        """Return FFmpeg's crop filter, which moves pointers and copies nothing."""
        left, top, width, height = box(self._region or (0, 0, 1, 1), frame.width, frame.height)
        graph = Graph()
        if hasattr(graph, "threads"):  # PyAV before 17 has no say in it
            graph.threads = 1
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=_MS
        )
        crop = graph.add("crop", f"{width}:{height}:{left}:{top}")
        graph.link_nodes(source, crop, graph.add("buffersink")).configure()
        return graph


def box(region: Region, width: int, height: int) -> tuple[int, int, int, int]:
    """Return left, top, width and height in pixels: even, at least two where there are two."""
    left, right = _edges(region[0], region[2], width)
    top, bottom = _edges(region[1], region[3], height)
    return left, top, right - left, bottom - top


def _edges(begin: float, share: float, size: int) -> tuple[int, int]:
    first = min(round(begin * size / 2) * 2, max(0, (size - 1) // 2 * 2))
    last = size if begin + share >= 1 else round((begin + share) * size / 2) * 2
    return first, min(size, max(last, first + 2))


def _colours(frame: VideoFrame) -> dict[str, int]:
    """Return how a frame's colours are to be read; only JPEG's own formats use the whole range."""
    matrix = _MATRICES.get(frame.colorspace, _BT601)
    whole = frame.format.name.startswith(("yuvj", "gray"))
    return {
        "src_colorspace": matrix,
        "dst_colorspace": _BT709 if matrix == _BT601 else _BT601,
        "src_color_range": frame.color_range or (_WHOLE if whole else _LIMITED),
        "dst_color_range": _WHOLE,
    }


def _one_thread(reformatter: VideoReformatter) -> dict[str, int]:
    """Return the option for it; PyAV before 17 takes one thread, and has no such option."""
    try:
        reformatter.reformat(VideoFrame(2, 2, "yuv420p"), format="rgb24", threads=1)
    except TypeError:
        return {}
    return {"threads": 1}
