"""Where a stream's samples come from, as the configuration says it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Rate = Annotated[float, Meta(gt=0, le=1e6)]
Text = Annotated[str, Meta(min_length=1, max_length=4000, pattern=r"^[^\x00]+\Z")]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[int, Meta(ge=1, le=1 << 20)]
Format = Literal["json", "csv", "text", "tensor", "image"]


class ReplaySource(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="replay"
):
    """Every row of an npz once; without ``rate_hz`` as fast as the loop goes."""

    path: Text
    rate_hz: Rate | None = None


class FolderSource(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="folder"
):
    """Every .npy file of a folder once, in the order of their names."""

    path: Text
    rate_hz: Rate | None = None


class LiveOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every live source has: its buffer, and what becomes of it when the loop is slower.

    ``policy`` "latest" drops the oldest of ``buffer`` captures, and counts it as overrun;
    "every" makes the source wait. None: "every" for what can wait without loss (files,
    standard input, a socket), "latest" for what goes on by itself. What waits has 64 MiB of
    data at most, too (or is one capture): of pictures of 1920 x 1080 that is ten.
    """

    policy: Literal["latest", "every"] | None = None
    buffer: Annotated[int, Meta(ge=1, le=4096)] = 8


class VideoSource(LiveOptions, frozen=True, kw_only=True, tag_field="kind", tag="video"):
    """Pictures of a camera or a film: one of ``url`` and ``pipeline``.

    ``url`` is a file, an ``rtsp://`` address or a V4L2 device (/dev/video0). ``pipeline`` is a
    GStreamer pipeline whose last element gives raw video, as on a Jetson
    ("nvarguscamerasrc ! nvvidconv ! video/x-raw,format=I420"). Only ``rate_hz`` pictures a
    second are taken (None: all), of them only ``region`` (left, top, width, height as shares of
    the picture). A file is played at its own pace where ``realtime``, else as fast as the loop
    goes. ``decoder`` names a decoder or a hardware device of FFmpeg ("h264_v4l2m2m", "cuda");
    without it pictures are decoded in software. ``size``, ``fps`` and ``pixel_format`` ask a
    V4L2 device for a mode. A user's password for ``rtsp://user@…`` is in ``password_file``.
    A source that gives nothing for ``stall_s`` is opened anew; ``max_pixels`` bounds one picture.
    Software decoders use as many ``threads``.
    """

    url: Text | None = None
    pipeline: Text | None = None
    rate_hz: Rate | None = None
    region: tuple[Share, Share, Share, Share] | None = None
    realtime: bool = False
    decoder: Text | None = None
    size: tuple[Positive, Positive] | None = None
    fps: Rate | None = None
    pixel_format: Text | None = None
    transport: Literal["tcp", "udp"] = "tcp"
    password_file: Text | None = None
    stall_s: Seconds = 2.0
    max_pixels: Annotated[int, Meta(ge=1, le=1 << 30)] = 1 << 25
    threads: Annotated[int, Meta(ge=1, le=64)] = 1


class ImagesSource(LiveOptions, frozen=True, kw_only=True, tag_field="kind", tag="images"):
    """Pictures that others put into a folder: JPEG, PNG and what else Pillow reads.

    A file counts once it is closed, or moved there. With ``existing`` those that are there
    already come first, in the order of their names. ``remove`` deletes each once it is read.
    ``poll_s`` looks every so often instead of being told (for network file systems).
    """

    path: Text
    suffixes: tuple[Text, ...] = (
        ".jpg",
        ".jpeg",
        ".png",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
        ".ppm",
        ".pgm",
    )
    existing: bool = True
    remove: bool = False
    poll_s: Seconds | None = None
    region: tuple[Share, Share, Share, Share] | None = None
    max_pixels: Annotated[int, Meta(ge=1, le=1 << 30)] = 1 << 25


class AudioSource(LiveOptions, frozen=True, kw_only=True, tag_field="kind", tag="audio"):
    """Sound from an ALSA ``device`` ("default", "hw:1,0") or a file ``path``, in windows.

    Windows are the bundle's; ``hop_s`` lets them begin at other distances. ``channel`` is which
    is taken, counted from 0 (None: the mean of all). A device is asked for ``channels`` (None: as
    many as ``channel`` needs, else 1) and for ``sample_rate_hz`` (None: the bundle's, or what it
    has that is near), and opened anew if it gives nothing for ``stall_s``. A file is played at
    its own pace where ``realtime``, else as fast as the loop goes.
    """

    device: Text | None = None
    path: Text | None = None
    sample_rate_hz: Positive | None = None
    channels: Annotated[int, Meta(ge=1, le=64)] | None = None
    channel: Annotated[int, Meta(ge=0, le=63)] | None = None
    hop_s: Seconds | None = None
    realtime: bool = False
    stall_s: Seconds = 5.0


class SerialSource(LiveOptions, frozen=True, kw_only=True, tag_field="kind", tag="serial"):
    """Lines of a serial port: a row of numbers each ("csv"), JSON, or text.

    ``fields`` names the JSON keys, or the CSV columns by number from 0, that are the channels,
    in the bundle's order (None: the bundle's channels by name; every column as it comes).
    ``hop`` is how many rows after another a window begins (None: the bundle's).
    """

    port: Text
    baud: Annotated[int, Meta(ge=50, le=4_000_000)] = 115_200
    format: Literal["csv", "json", "text"] = "csv"
    fields: tuple[Text, ...] | None = None
    hop: Positive | None = None
    max_line_bytes: Annotated[int, Meta(ge=16, le=1 << 20)] = 4096
    stall_s: Seconds | None = None


class MqttSource(LiveOptions, frozen=True, kw_only=True, tag_field="kind", tag="mqtt"):
    """The messages of a topic filter; by the broker of [uplink], or by one of its own.

    "tensor" is the bare bytes of whole rows, little-endian, in the bundle's dtype (float32 where
    [input.tensor] has scale or offset); "json" and "csv" one row or a list of rows; "text" UTF-8;
    "image" a JPEG or PNG. ``fields`` and ``hop`` are as for a serial port. A silent cut is
    noticed within one and a half times ``keepalive_s``.
    """

    topic: Text
    format: Format = "json"
    fields: tuple[Text, ...] | None = None
    hop: Positive | None = None
    qos: Literal[0, 1] = 0
    broker: Text | None = None
    password_file: Text | None = None
    ca_file: Text | None = None
    cert_file: Text | None = None
    key_file: Text | None = None
    keepalive_s: Annotated[int, Meta(ge=1, le=65_535)] = 20
    max_bytes: Annotated[int, Meta(ge=1, le=1 << 26)] = 1 << 22
    max_pixels: Annotated[int, Meta(ge=1, le=1 << 30)] = 1 << 25


class SocketSource(LiveOptions, frozen=True, kw_only=True, tag_field="kind", tag="socket"):
    """What programs write to a Unix socket that the device listens on, at ``path``.

    "json", "csv" and "text" are lines; "tensor" and "image" are messages of a length (unsigned,
    32 bits, little-endian) and as many bytes, as over MQTT.
    """

    path: Text
    format: Format = "json"
    fields: tuple[Text, ...] | None = None
    hop: Positive | None = None
    clients: Annotated[int, Meta(ge=1, le=256)] = 16
    max_bytes: Annotated[int, Meta(ge=1, le=1 << 26)] = 1 << 22
    max_pixels: Annotated[int, Meta(ge=1, le=1 << 30)] = 1 << 25


class StdinSource(LiveOptions, frozen=True, kw_only=True, tag_field="kind", tag="stdin"):
    """Standard input, in the forms of a Unix socket; its end is the stream's."""

    format: Format = "json"
    fields: tuple[Text, ...] | None = None
    hop: Positive | None = None
    max_bytes: Annotated[int, Meta(ge=1, le=1 << 26)] = 1 << 22
    max_pixels: Annotated[int, Meta(ge=1, le=1 << 30)] = 1 << 25


AnySource = (
    ReplaySource
    | FolderSource
    | VideoSource
    | ImagesSource
    | AudioSource
    | SerialSource
    | MqttSource
    | SocketSource
    | StdinSource
)
