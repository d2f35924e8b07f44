"""The reader of NVIDIA's GPUs, against a fake that has the real library's functions."""

from __future__ import annotations

import importlib
import inspect
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from hedge.models.errors import ConfigError, MissingExtraError
from hedge.telemetry.power.nvml import Nvml, open_nvml


class NotAvailableError(Exception):
    """Stands for `pynvml.NVMLError`."""


class FakeNvml:
    """A driver with some GPUs: by GPU its millijoules and its milliwatts, None: Not Supported."""

    NVMLError = NotAvailableError

    def __init__(self, *gpus: tuple[int | None, int | None], driver: bool = True) -> None:
        self.gpus = list(gpus)
        self.driver = driver
        self.opened = 0

    def nvmlInit(self) -> None:  # noqa: N802 -- the library's name
        if not self.driver:
            raise NotAvailableError("NVML Shared Library Not Found")
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 -- the library's name
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 -- the library's name
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802 -- the library's name
        return index

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: int) -> int:  # noqa: N802 -- the library's name
        return self._said(handle, 0)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802 -- the library's name
        return self._said(handle, 1)

    def _said(self, handle: int, which: int) -> int:
        assert self.opened > 0, "Uninitialized"
        value = self.gpus[handle][which]
        if value is None:
            raise NotAvailableError("Not Supported")
        return value


FUNCTIONS = [name for name in vars(FakeNvml) if name.startswith("nvml")]


@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_fake_has_the_real_librarys_functions(name: str) -> None:
    pynvml = importlib.import_module("pynvml")

    real = list(inspect.signature(getattr(pynvml, name)).parameters)
    fake = list(inspect.signature(getattr(FakeNvml, name)).parameters)[1:]
    asked = list(inspect.signature(getattr(Nvml, name)).parameters)[1:]
    assert real == fake == asked
    assert issubclass(pynvml.NVMLError, Exception)
    assert issubclass(pynvml.NVMLError_NotSupported, pynvml.NVMLError)


@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_without_a_driver_the_real_library_is_one_clear_line() -> None:
    pynvml = importlib.import_module("pynvml")

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        with pytest.raises(ConfigError, match="nvml: NVML says: "):
            open_nvml()
    else:
        pynvml.nvmlShutdown()
        pytest.skip("there is a driver")


def test_the_energy_counter_is_taken_where_there_is_one() -> None:
    library = FakeNvml((5_000_000, 70_000), (9_000, 30_000))
    reader = open_nvml(library)
    assert (reader.source.kind, reader.source.scope) == ("energy", "gpu")
    assert reader.source.total == ("gpu0", "gpu1")
    assert reader.read() == (None, None)
    library.gpus = [(5_012_500, 70_000), (9_001, 30_000)]
    assert reader.read() == pytest.approx((12.5, 0.001))  # from millijoules


def test_power_is_taken_where_one_gpu_has_no_counter() -> None:
    library = FakeNvml((5_000_000, 70_250), (None, 30_000))
    reader = open_nvml(library)
    assert reader.source.kind == "power"
    assert reader.read() == pytest.approx((70.25, 30.0))  # from milliwatts


def test_a_gpu_that_is_lost_is_that_rail_and_its_counter_begins_anew() -> None:
    library = FakeNvml((1000, None), (1000, None))
    reader = open_nvml(library)
    reader.read()
    library.gpus = [(None, None), (2000, None)]
    assert reader.read() == (None, 1.0)
    library.gpus = [(500_000, None), (500, None)]  # the second was set back
    assert reader.read() == (None, None)
    library.gpus = [(501_000, None), (1500, None)]
    assert reader.read() == (1.0, 1.0)


@pytest.mark.parametrize(
    ("library", "what"),
    [
        (FakeNvml(driver=False), "NVML says: NVML Shared Library Not Found"),
        (FakeNvml(), "0 GPUs, not 1 to 16"),
        (FakeNvml((None, None)), "not every GPU says its energy or its power"),  # as an Orin's
        (FakeNvml((1, None), (None, 1)), "not every GPU says its energy or its power"),
    ],
)
def test_a_gpu_that_cannot_say_is_refused_and_the_library_closed(
    library: FakeNvml, what: str
) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        open_nvml(library)
    assert library.opened == 0
    assert "Jetson" in str(caught.value.hint) or "16" in what


def test_closing_closes_the_library_once() -> None:
    library = FakeNvml((1, 1))
    reader = open_nvml(library)
    assert library.opened == 1
    reader.close()
    reader.close()
    assert library.opened == 0
    assert reader.read() == (None,)


def test_a_library_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing: Any = None
    monkeypatch.setitem(sys.modules, "pynvml", missing)
    with pytest.raises(MissingExtraError, match=r"hedge-runtime\[nvml\]"):
        open_nvml()
