"""TensorRT's and pycuda's modules, the GPU they find, and what TensorRT says of its errors."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

from msgspec import Struct

from ....models.errors import MissingExtraError, ModelError
from ..first_line import first_line

_log = logging.getLogger(__name__)

_SUPPORTED = "10"
_SAID_AT_MOST = 300
_HEARD_AT_MOST = 8
_LIBRARIES = ("tensorrt", "pycuda")


class Gpu(Struct, frozen=True):
    """What an engine is built for.

    The number of multiprocessors tells boards apart that call themselves alike (every
    Jetson Orin is "Orin") and the power modes that switch some of them off.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int


class Library(NamedTuple):
    """The modules, loaded, and the first GPU; both modules are untyped."""

    trt: Any
    cuda: Any
    gpu: Gpu

    @property
    def version(self) -> str:
        """TensorRT's version, such as 10.3.0."""
        return str(self.trt.__version__)


def is_installed() -> bool:
    """Tell whether TensorRT and pycuda are installed; there may be no GPU all the same."""
    return all(find_spec(name) is not None for name in _LIBRARIES)


def load(*, where: str) -> Library:
    """Load the libraries and find the GPU.

    Raises:
        MissingExtraError: one of the two is not installed.
        ModelError: they do not load, are of another major version, or find no GPU.
    """
    for name in _LIBRARIES:
        if find_spec(name) is None:
            raise MissingExtraError(name, extra="tensorrt")
    try:
        trt, cuda = (importlib.import_module(name) for name in ("tensorrt", "pycuda.driver"))
    except (ImportError, OSError) as error:
        raise ModelError(
            f"TensorRT does not load: {first_line(error)}",
            where=where,
            hint="its libraries and CUDA's must be there, and of one version",
        ) from error
    if str(trt.__version__).split(".", 1)[0] != _SUPPORTED:
        raise ModelError(
            f"TensorRT {trt.__version__} is installed, supported is {_SUPPORTED}",
            where=where,
            hint='use = "onnx" runs the model without',
        )
    return Library(trt, cuda, _find_gpu(cuda, where=where))


def _find_gpu(cuda: Any, *, where: str) -> Gpu:  # noqa: ANN401  an untyped module
    try:
        cuda.init()
        device = cuda.Device(0)
        attribute = cuda.device_attribute.MULTIPROCESSOR_COUNT
        major, minor = device.compute_capability()
        return Gpu(device.name(), (int(major), int(minor)), int(device.get_attribute(attribute)))
    except cuda.Error as error:
        raise ModelError(
            f"no NVIDIA GPU: {first_line(error)}",
            where=where,
            hint='is the driver there, and may this user open it? use = "onnx" runs without',
        ) from error


@contextmanager
def current(library: Library, context: Any) -> Iterator[None]:  # noqa: ANN401  untyped
    """Make ``context`` this thread's, and put back what was; pycuda aborts where one is left."""
    context.push()
    try:
        yield
    finally:
        library.cuda.Context.pop()


@cache
def listener(trt: Any) -> Any:  # noqa: ANN401  an untyped module, and a class of it
    """Return the one logger of this process.

    TensorRT keeps the first that it is given and ignores all others, so it must never go.
    It has ``heard`` the first errors since that list was last cleared: clear it before
    what may fail.
    """

    class Listener(trt.ILogger):  # type: ignore[misc]  # the base is untyped
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.heard: list[str] = []

        def log(self, severity: Any, msg: str) -> None:  # noqa: ANN401  an enumeration of it
            bad = severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)
            if bad and len(self.heard) < _HEARD_AT_MOST:
                self.heard.append(msg.strip().partition("\n")[0][:_SAID_AT_MOST])
            _log.debug("TensorRT: %s", msg)

    return Listener()


def said(logger: Any) -> str:  # noqa: ANN401  see `listener`
    """Return the first error that the logger has heard, for the end of a message; "" if none."""
    return f": {logger.heard[0]}" if logger.heard else ""
