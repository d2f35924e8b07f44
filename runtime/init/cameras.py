"""The cameras of this machine: V4L2 devices that capture, and those behind a pipeline."""

from __future__ import annotations

import fcntl
import os
import re
import struct

from msgspec import Struct

from ...telemetry.boards.tree import Tree
from .by_id import names_by_node

_FOLDER = "sys/class/video4linux"
_BY_ID = "dev/v4l/by-id"
_QUERYCAP = 0x80685600  # _IOR('V', 0, struct v4l2_capability): linux/videodev2.h
_CAPABILITY = struct.Struct("=16s32s32sIII12x")
_DEVICE_CAPS = 0x80000000  # what this node can, not the whole device
_CAPTURES = 0x00001000 | 0x00000001  # pictures, in several planes or one
_CONVERTS = 0x00004000 | 0x00008000  # memory to memory: a codec, no camera
_JETSON = re.compile(r"vi-output, ")
_RASPBERRY = re.compile(r"unicam-image|rp1-cfe-csi2_ch0")
_NO_CAMERA = re.compile(r"bcm2835-(codec|isp)|pispbe|rpi-hevc|rp1-cfe|unicam")


class Camera(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A camera: its device is ``url``, or ``pipeline`` gives its pictures by GStreamer.

    ``note`` says what stands against it, as that this user may not open it.
    """

    name: str
    url: str | None = None
    pipeline: str | None = None
    note: str | None = None


def find_cameras(tree: Tree) -> tuple[Camera, ...]:
    """Return the cameras below a root; each node is asked whether it captures."""
    stable = names_by_node(tree, _BY_ID)
    found: list[Camera] = []
    for node in tree.names(_FOLDER):
        name = tree.text(f"{_FOLDER}/{node}/name") or node
        if _JETSON.match(name):
            at = sum(one.pipeline is not None for one in found)
            source = f"nvarguscamerasrc sensor-id={at} ! nvvidconv"
            found.append(Camera(name=name, pipeline=f"{source} ! video/x-raw,format=I420"))
        elif _RASPBERRY.match(name):
            pipeline = "libcamerasrc ! videoconvert ! video/x-raw,format=I420"
            found.append(Camera(name=name, pipeline=pipeline))
        elif not _NO_CAMERA.match(name):
            camera = _device(tree, node, name=name, url=_url(stable.get(node), node))
            found += [] if camera is None else [camera]
    return tuple(found)


def captures(answer: bytes) -> bool:
    """Return whether a node captures pictures, by its answer to VIDIOC_QUERYCAP."""
    *_, whole, node = _CAPABILITY.unpack(answer)
    able = node if whole & _DEVICE_CAPS else whole
    return bool(able & _CAPTURES) and not able & _CONVERTS


def _device(tree: Tree, node: str, *, name: str, url: str) -> Camera | None:
    """Return what a node is; None: no camera. What cannot be asked is taken by its index."""
    try:
        answer = _asked(tree.root / "dev" / node)
    except FileNotFoundError:
        note = "no such device: is /dev hidden by a container?"
    except PermissionError:
        note = "this user may not open it: is it in the group video?"
    except OSError as error:
        note = f"does not answer: {error.strerror}"
    else:
        return Camera(name=name, url=url) if captures(answer) else None
    if tree.number(f"{_FOLDER}/{node}/index"):
        return None  # the second node of a camera gives what is no picture
    return Camera(name=name, url=url, note=note)


def _asked(path: os.PathLike[str]) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return fcntl.ioctl(fd, _QUERYCAP, bytes(_CAPABILITY.size))
    finally:
        os.close(fd)


def _url(stable: str | None, node: str) -> str:
    return f"/dev/{node}" if stable is None else f"/{_BY_ID}/{stable}"
