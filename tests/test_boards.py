"""Tests of the board profiles, and of telling one board from another by its files."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.models.errors import ConfigError
from hedge.telemetry.boards.detect import Detected, detect, detect_in
from hedge.telemetry.boards.identity import identify
from hedge.telemetry.boards.profile import (
    FOLDER,
    BoardProfile,
    find_profile,
    load_profile,
    load_profiles,
    matches,
    profile,
)
from hedge.telemetry.boards.recording import plant, to_recording
from hedge.telemetry.boards.thermal import hottest
from hedge.telemetry.boards.tree import MAX_BYTES, Tree

RECORDED = Path(__file__).parent / "recorded" / "boards"
PROFILES = load_profiles()
GENERIC = {"generic-arm64", "generic-x86"}
COMPATIBLE = "proc/device-tree/compatible"
MODEL = "proc/device-tree/model"


WHO = """
jetson-nano-jetpack-4.6              jetson-nano          -                32.7.1  onnx
jetson-tx2-jetpack-4.6               jetson-tx2           -                32.7.6  onnx
jetson-xavier-nx-jetpack-4.6         jetson-xavier-nx     -                32.6.1  onnx
jetson-xavier-nx-jetpack-5.1         jetson-xavier-nx     -                35.6.5  onnx
jetson-agx-xavier-jetpack-5.1        jetson-agx-xavier    -                35.6.4  onnx
jetson-orin-nano-jetpack-6.2         jetson-orin-nano-nx  orin-nano-8gb    36.4.3  tensorrt
jetson-orin-nano-jetpack-7.2         jetson-orin-nano-nx  orin-nano-8gb    39.2.0  tensorrt
jetson-orin-nx-jetpack-5.1           jetson-orin-nano-nx  orin-nx-16gb     35.4.1  onnx
jetson-orin-nx-jetpack-6.2           jetson-orin-nano-nx  orin-nx-16gb     36.4.4  tensorrt
jetson-agx-orin-jetpack-5.1          jetson-agx-orin      agx-orin-devkit  35.4.1  onnx
jetson-agx-orin-jetpack-6.2          jetson-agx-orin      agx-orin-64gb    36.4.3  tensorrt
jetson-agx-thor-jetpack-7.1          jetson-agx-thor      thor-t5000       38.4.0  tensorrt
raspberry-pi-4-raspberry-pi-os-12    raspberry-pi-4       -                -       onnx
raspberry-pi-400-raspberry-pi-os-12  raspberry-pi-4       -                -       onnx
compute-module-4-raspberry-pi-os-12  raspberry-pi-4       -                -       onnx
raspberry-pi-5-raspberry-pi-os-13    raspberry-pi-5       -                -       onnx
raspberry-pi-500-raspberry-pi-os-13  raspberry-pi-5       -                -       onnx
compute-module-5-ubuntu-24.04        raspberry-pi-5       -                -       onnx
rock-5b-debian-12                    generic-arm64        -                -       onnx
x86-laptop-debian-12                 generic-x86          -                -       onnx
container-on-orin-nano-jetpack-6.2   jetson-orin-nano-nx  -                -       onnx
container-on-raspberry-pi-5          raspberry-pi-5       -                -       onnx
container-on-arm64-server            generic-arm64        -                -       onnx
"""
"""Recording, board, module, Jetson Linux, backend; a dash for what cannot be known."""

STATE = """
jetson-nano-jetpack-4.6              4  3  AO-therm         45.500   -      2.880   MAXN
jetson-tx2-jetpack-4.6               4  3  BCPU-therm       26.500   -      1.988   MAXP_CORE_ARM
jetson-xavier-nx-jetpack-4.6         2  1  CPU-therm        34.500   -      3.220   MODE_15W_2CORE
jetson-xavier-nx-jetpack-5.1         6  4  CPU-therm        60.500   -      6.240   MODE_20W_6CORE
jetson-agx-xavier-jetpack-5.1        4  3  CPU-therm        38.500   -      5.471   MODE_15W_DESKTOP
jetson-orin-nano-jetpack-6.2         6  4  tj-thermal       47.031   False  5.502   MAXN_SUPER
jetson-orin-nano-jetpack-7.2         4  3  tj-thermal       47.031   False  3.987   7W
jetson-orin-nx-jetpack-5.1           8  4  tj-therm         46.500   -      6.457   25W
jetson-orin-nx-jetpack-6.2           8  4  tj-thermal       100.031  True   39.807  MAXN_SUPER
jetson-agx-orin-jetpack-5.1          12 4  tj-therm         46.500   -      7.958   MAXN
jetson-agx-orin-jetpack-6.2          12 4  tj-thermal       47.031   False  7.958   MODE_50W
jetson-agx-thor-jetpack-7.1          14 4  tj-thermal       55.125   False  19.012  120W
raspberry-pi-4-raspberry-pi-os-12    4  3  cpu-thermal      48.686   False  -       ondemand
raspberry-pi-400-raspberry-pi-os-12  4  3  cpu-thermal      48.686   False  -       ondemand
compute-module-4-raspberry-pi-os-12  4  3  cpu-thermal      48.686   True   -       ondemand
raspberry-pi-5-raspberry-pi-os-13    4  3  cpu-thermal      48.686   False  -       ondemand
raspberry-pi-500-raspberry-pi-os-13  4  3  cpu-thermal      48.686   False  -       ondemand
compute-module-5-ubuntu-24.04        4  3  cpu-thermal      48.686   False  -       ondemand
rock-5b-debian-12                    8  1  package-thermal  41.615   -      -       schedutil
x86-laptop-debian-12                 12 1  x86_pkg_temp     52.000   -      -       powersave
container-on-orin-nano-jetpack-6.2   6  4  tj-thermal       47.031   False  5.502   -
container-on-raspberry-pi-5          4  3  -                -        -      -       -
container-on-arm64-server            64 1  -                -        -      -       -
"""
"""Recording, CPUs, threads, hottest zone and its degrees, throttled, watts in total, mode."""

WANTED = {line.split()[0]: line.split()[1] for line in WHO.strip().splitlines()}
"""Board by recording."""


@pytest.fixture
def tree_of(tmp_path: Path) -> Callable[[str], Path]:
    """Give a maker of a tree's folder from its recording's name."""

    def make(name: str) -> Path:
        plant(RECORDED / f"{name}.toml", tmp_path / name)
        return tmp_path / name

    return make


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(text.encode())


def columns(*values: object) -> list[str]:
    """Return values as a table's line has them."""
    texts = [f"{one:.3f}" if isinstance(one, float) else str(one) for one in values]
    return ["-" if text == "None" else text for text in texts]


def board_of(found: Detected) -> str | None:
    return found.profile.name if found.profile else None


def test_every_recording_is_listed_here_and_covers_every_board() -> None:
    assert {path.stem for path in RECORDED.glob("*.toml")} == set(WANTED)
    assert [line.split()[0] for line in STATE.strip().splitlines()] == list(WANTED)
    assert set(WANTED.values()) == {one.name for one in PROFILES}


@pytest.mark.parametrize("line", WHO.strip().splitlines(), ids=lambda line: line.split()[0])
def test_a_recorded_tree_is_found_to_be_its_board(
    line: str, tree_of: Callable[[str], Path]
) -> None:
    name, *wanted = line.split()
    found = detect(root=tree_of(name))
    module = found.module.name if found.module else None
    assert columns(board_of(found), module, found.l4t, found.backend) == wanted
    assert found.hardware == (module or board_of(found))


@pytest.mark.parametrize("line", STATE.strip().splitlines(), ids=lambda line: line.split()[0])
def test_a_recorded_trees_state_is_read(line: str, tree_of: Callable[[str], Path]) -> None:
    name, *wanted = line.split()
    found = detect(root=tree_of(name))
    hot = hottest(found.thermal)
    readings = [one.power_w for one in found.rails if one.in_total]
    known = [power_w for power_w in readings if power_w is not None]
    assert wanted == columns(
        found.cpus,
        found.threads,
        hot.name if hot else None,
        hot.temp_c if hot else None,
        found.throttling.now,
        sum(known) if known and len(known) == len(readings) else None,
        found.power_mode.name if found.power_mode else None,
    )


@pytest.mark.parametrize("name", [name for name in WANTED if "jetpack" in name])
def test_every_zone_and_rail_of_a_recorded_jetson_is_known_to_its_profile(
    name: str, tree_of: Callable[[str], Path]
) -> None:
    found = detect(root=tree_of(name))
    assert found.profile is not None
    assert found.rails_missing == ()
    assert len(found.rails) == len(found.profile.power.rail)
    known = found.profile.thermal.zones
    assert [zone.name for zone in found.thermal if not matches(zone.name, known)] == []


def test_every_fact_says_where_it_was_read(tree_of: Callable[[str], Path]) -> None:
    found = detect(root=tree_of("jetson-orin-nano-jetpack-6.2"))
    assert found.evidence is not None
    assert found.evidence.file == COMPATIBLE
    assert found.evidence.text == "nvidia,p3768-0000+p3767-0005-super"
    assert found.model == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found.jetpack == 6
    assert found.software is not None
    assert found.software.python == "3.10"
    assert (found.memory_bytes, found.available_bytes) == (7801856 << 10, 5712344 << 10)
    assert found.power_mode is not None
    assert (found.power_mode.id, found.power_mode.file) == (2, "var/lib/nvpmodel/status")
    folder = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    assert [(one.label, one.folder, one.channel) for one in found.rails] == [
        ("VDD_IN", folder, 1),
        ("VDD_CPU_GPU_CV", folder, 2),
        ("VDD_SOC", folder, 3),
    ]
    assert found.notes == ()


def test_an_older_kernels_iio_rails_count_from_nought(tree_of: Callable[[str], Path]) -> None:
    found = detect(root=tree_of("jetson-tx2-jetpack-4.6"))
    assert [(one.label, one.layout, one.address, one.channel) for one in found.rails[:3]] == [
        ("VDD_IN", "iio", "0-0041", 0),
        ("VDD_SYS_CPU", "iio", "0-0041", 1),
        ("VDD_SYS_DDR", "iio", "0-0041", 2),
    ]


def test_a_rail_that_reads_below_zero_is_kept_as_it_is(tree_of: Callable[[str], Path]) -> None:
    found = detect(root=tree_of("jetson-agx-thor-jetpack-7.1"))
    gpu = next(one for one in found.rails if one.label == "VDD_GPU")
    assert gpu.power_w == pytest.approx(-0.38528)
    assert not gpu.in_total


def test_what_agx_orin_counts_already_is_not_in_its_total(tree_of: Callable[[str], Path]) -> None:
    found = detect(root=tree_of("jetson-agx-orin-jetpack-5.1"))
    assert {one.label: one.in_total for one in found.rails} == {
        "VDD_GPU_SOC": True,
        "VDD_CPU_CV": True,
        "VIN_SYS_5V0": True,
        "VDDQ_VDD2_1V8AO": False,
    }


def test_a_rail_of_the_right_label_on_another_chip_is_not_it(
    tree_of: Callable[[str], Path],
) -> None:
    root = tree_of("jetson-orin-nano-jetpack-6.2")
    chips = root / "sys/bus/i2c/drivers/ina3221"
    (chips / "1-0040").rename(chips / "9-0048")
    found = detect(root=root)
    assert found.rails == ()
    assert found.rails_missing == ("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC")


def test_a_rail_is_found_whatever_its_hwmons_number(tree_of: Callable[[str], Path]) -> None:
    root = tree_of("jetson-orin-nano-jetpack-6.2")
    chip = root / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon"
    (chip / "hwmon1").rename(chip / "hwmon17")
    assert detect(root=root).rails[0].power_w == pytest.approx(5.502336)


def test_a_channel_that_fails_is_that_channel_alone(tree_of: Callable[[str], Path]) -> None:
    root = tree_of("jetson-orin-nano-jetpack-6.2")
    path = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/curr1_input"
    (root / path).unlink()
    (root / path).mkdir()  # reading it fails, as a sensor's EIO does
    found = detect(root=root)
    assert [one.power_w is None for one in found.rails] == [True, False, False]
    assert f"{path} cannot be read: Is a directory" in found.notes


def test_a_constant_of_the_regulator_is_never_the_hottest(tree_of: Callable[[str], Path]) -> None:
    zones = detect(root=tree_of("jetson-nano-jetpack-4.6")).thermal
    assert {zone.name: zone.temp_c for zone in zones if not zone.counted} == {
        "PMIC-Die": 100.0,
        "thermal-fan-est": 37.75,
    }


def test_trip_points_are_the_zones_own_before_the_profiles(tree_of: Callable[[str], Path]) -> None:
    root = tree_of("jetson-orin-nano-jetpack-6.2")
    put(root, "sys/class/thermal/thermal_zone0/trip_point_1_temp", "82000")
    for path in (root / "sys/class/thermal/thermal_zone1").glob("trip_point_*"):
        path.unlink()
    cpu, gpu = detect(root=root).thermal[:2]
    assert (cpu.throttle_c, cpu.critical_c) == (82.0, 104.5)
    assert (gpu.throttle_c, gpu.critical_c) == (99.0, 104.5)


def test_the_lowest_of_several_trip_points_is_where_it_is_slowed_down(
    tree_of: Callable[[str], Path],
) -> None:
    zone = detect(root=tree_of("rock-5b-debian-12")).thermal[0]  # passive at 75 and at 85
    assert (zone.throttle_c, zone.critical_c) == (75.0, 115.0)


def test_a_sensor_that_is_off_has_no_temperature(tree_of: Callable[[str], Path]) -> None:
    off = {
        zone.name
        for name in ("jetson-agx-thor-jetpack-7.1", "jetson-agx-orin-jetpack-5.1")
        for zone in detect(root=tree_of(name)).thermal
        if zone.temp_c is None
    }
    assert off == {"gpu-thermal", "CV0-therm", "CV1-therm", "CV2-therm"}


def test_what_slows_a_board_down_is_named(tree_of: Callable[[str], Path]) -> None:
    assert detect(root=tree_of("jetson-orin-nx-jetpack-6.2")).throttling.by == (
        "gpu-throttle-alert",
    )
    root = tree_of("raspberry-pi-5-raspberry-pi-os-13")
    assert detect(root=root).throttling.by == ()  # it was slow once: bits 17 to 19
    flags = "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled"
    put(root, flags, "e000a\n")
    assert detect(root=root).throttling.by == ("frequency capped", "soft temperature limit")
    put(root, flags, "what?\n")
    assert detect(root=root).throttling.now is None


def test_a_container_says_what_it_hides_instead_of_guessing(
    tree_of: Callable[[str], Path],
) -> None:
    found = detect(root=tree_of("container-on-orin-nano-jetpack-6.2"))
    assert found.evidence is not None
    assert found.evidence.file == "sys/devices/soc0/machine"
    assert (found.module, found.l4t, found.jetpack, found.software) == (None, None, None, None)
    assert found.power_mode is not None
    assert found.power_mode.name is None
    assert found.power_mode.candidates == ("10W", "7W", "25W", "7W-AI")
    assert found.backend == "onnx"  # TensorRT is not on every JetPack that this may be
    text = "\n".join(found.notes)
    assert "in a container (.dockerenv)" in text
    assert "no device tree: neither proc/device-tree nor" in text
    assert "etc/nv_tegra_release does not say which JetPack" in text
    assert "power mode 1 is one of 10W, 7W, 25W, 7W-AI" in text


def test_the_module_tells_what_a_modes_number_means(tree_of: Callable[[str], Path]) -> None:
    root = tree_of("jetson-orin-nx-jetpack-5.1")
    (root / "etc/nvpmodel.conf").unlink()
    mode = detect(root=root).power_mode
    assert mode is not None
    assert (mode.id, mode.name) == (3, "25W")  # 20W on the module of 8 GB
    put(root, "var/lib/nvpmodel/status", "pmode:0077")
    found = detect(root=root)
    assert "power mode 77 is none of the known: etc/nvpmodel.conf does not say" in found.notes


def test_a_board_without_a_profile_is_generic_and_says_so(tree_of: Callable[[str], Path]) -> None:
    notes = detect(root=tree_of("rock-5b-debian-12")).notes
    assert notes == ("no profile knows radxa,rock-5b: docs/boards.md says how to add one",)


@pytest.mark.parametrize(
    ("compatible", "model"),
    [
        ("nvidia,p3509-0000+p3636-0001\0nvidia,tegra186\0", "NVIDIA Jetson TX2 NX Developer Kit"),
        ("nvidia,p2371-2180\0nvidia,jetson-cv\0nvidia,tegra210\0", "jetson_tx1"),
        ("raspberrypi,3-model-b-plus\0brcm,bcm2837\0", "Raspberry Pi 3 Model B Plus Rev 1.3"),
        ("raspberrypi,model-zero-2-w\0brcm,bcm2837\0", "Raspberry Pi Zero 2 W Rev 1.0"),
        ("acme,carrier\0nvidia,tegra234\0", "Acme carrier"),
    ],
)
def test_a_board_like_another_is_not_taken_for_it(
    tmp_path: Path, compatible: str, model: str
) -> None:
    put(tmp_path, COMPATIBLE, compatible)
    put(tmp_path, MODEL, model + "\0")
    put(tmp_path, "proc/sys/kernel/arch", "aarch64\n")
    assert board_of(detect(root=tmp_path)) == "generic-arm64"


def test_a_product_on_a_known_module_is_found_by_the_module(tmp_path: Path) -> None:
    put(tmp_path, MODEL, "reComputer J401\0")
    put(tmp_path, COMPATIBLE, "seeed,j401\0nvidia,p3767-0001\0nvidia,tegra234\0")
    found = detect(root=tmp_path)
    assert board_of(found) == "jetson-orin-nano-nx"
    assert found.module is not None
    assert found.module.name == "orin-nx-8gb"


def test_a_machine_of_another_kind_has_no_profile_and_no_guess(tmp_path: Path) -> None:
    put(tmp_path, "proc/sys/kernel/arch", "riscv64\n")
    found = detect(root=tmp_path)
    assert found.profile is None
    assert (found.machine, found.threads, found.backend) == ("riscv64", 1, None)
    assert found.notes == ("no profile fits a machine of the kind riscv64",)


def test_an_empty_tree_is_not_this_machine(tmp_path: Path) -> None:
    found = detect(root=tmp_path)
    assert found.profile is None
    assert (found.machine, found.cpus, found.memory_bytes, found.model) == (None,) * 4
    assert found.throttling.now is None


def test_this_machine_is_found_to_be_something() -> None:
    found = detect()
    assert found.machine == os.uname().machine
    assert found.cpus is not None
    assert found.memory_bytes is not None
    assert found.profile is not None


def test_the_configured_board_is_taken_and_what_it_looks_like_is_said(
    tree_of: Callable[[str], Path],
) -> None:
    root = tree_of("raspberry-pi-5-raspberry-pi-os-13")
    found = detect(root=root, board=profile("raspberry-pi-4"))
    assert board_of(found) == "raspberry-pi-4"
    assert found.evidence is None
    assert "the configuration says raspberry-pi-4, it looks like raspberry-pi-5" in found.notes


def test_a_jetpack_of_which_the_profile_is_silent_is_said(tree_of: Callable[[str], Path]) -> None:
    root = tree_of("jetson-nano-jetpack-4.6")
    put(root, "etc/nv_tegra_release", "# R36 (release), REVISION: 4.3, GCID: 1\n")
    assert "the profile says nothing of JetPack 6" in detect(root=root).notes
    put(root, "etc/nv_tegra_release", "# R77 (release), REVISION: 1.0, GCID: 1\n")
    found = detect(root=root)
    assert (found.l4t, found.jetpack, found.software) == ("77.1.0", None, None)
    assert "Jetson Linux 77.1.0 belongs to no known JetPack" in found.notes


@pytest.mark.parametrize(
    ("online", "cpus"),
    [("0", 1), ("0-3", 4), ("0,2-5,7", 6), ("", 2), ("0-", 2), ("3-0", 2), ("0-99999999", 2)],
)
def test_cpus_are_counted_as_the_kernel_lists_them(tmp_path: Path, online: str, cpus: int) -> None:
    put(tmp_path, "sys/devices/system/cpu/online", f"{online}\n")
    put(tmp_path, "proc/cpuinfo", "processor\t: 0\nprocessor\t: 1\n")
    assert detect(root=tmp_path).cpus == cpus


# -- Broken trees


@pytest.mark.parametrize("name", WANTED)
def test_a_cut_off_name_is_never_another_board(name: str, tree_of: Callable[[str], Path]) -> None:
    root, board = tree_of(name), WANTED[name]
    for path in (COMPATIBLE, MODEL, "sys/devices/soc0/machine", "proc/sys/kernel/arch"):
        if not (root / path).exists():
            continue
        whole = (root / path).read_bytes()
        for end in range(len(whole)):
            (root / path).write_bytes(whole[:end])
            found = identify(Tree(root), PROFILES).profile
            assert found is None or found.name in {board, *GENERIC}, whole[:end]
        (root / path).write_bytes(whole)


def damage(file: Path, how: str, junk: bytes) -> None:
    """Break one file of a tree."""
    data = file.read_bytes() if file.is_file() else b""
    if file.is_dir() and not file.is_symlink():
        return
    file.unlink(missing_ok=True)
    match how:
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "junk":
            file.write_bytes(junk)
        case "huge":
            file.write_bytes(data + b"9" * 2 * MAX_BYTES)
        case "folder":
            file.mkdir()
        case "loop":
            file.symlink_to(file)
        case "fifo":
            os.mkfifo(file)
        case "away":
            file.symlink_to("/proc/self/status")


HOWS = ("gone", "cut", "junk", "huge", "folder", "loop", "fifo", "away")


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(WANTED)),
    hurt=st.lists(
        st.tuples(st.integers(0, 10_000), st.sampled_from(HOWS), st.binary(max_size=40)),
        min_size=1,
        max_size=12,
    ),
)
def test_a_damaged_tree_is_read_as_far_as_it_goes(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    hurt: list[tuple[int, str, bytes]],
) -> None:
    root = tmp_path_factory.mktemp("hurt", numbered=True)
    plant(RECORDED / f"{name}.toml", root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for number, how, junk in hurt:
        damage(files[number % len(files)], how, junk)
    found = detect_in(Tree(root), profiles=PROFILES)
    assert board_of(found) in {WANTED[name], *GENERIC, None}
    for zone in found.thermal:
        assert zone.temp_c is None or -60 < zone.temp_c < 200
    shutil.rmtree(root)


def test_a_file_that_cannot_be_read_is_named(tree_of: Callable[[str], Path]) -> None:
    root = tree_of("jetson-orin-nano-jetpack-6.2")
    (root / "etc/nv_tegra_release").unlink()
    (root / "etc/nv_tegra_release").mkdir()
    (root / MODEL).unlink()
    (root / MODEL).symlink_to("/etc/hostname")
    found = detect(root=root)
    assert board_of(found) == "jetson-orin-nano-nx"
    assert found.model is None
    assert "etc/nv_tegra_release cannot be read: Is a directory" in found.notes
    assert f"{MODEL} cannot be read: leads out of the tree" in found.notes


# -- Profiles


def test_a_known_board_stands_in_a_file_of_its_name() -> None:
    assert [one.name for one in PROFILES] == [
        "generic-arm64",
        "generic-x86",
        "jetson-agx-orin",
        "jetson-agx-thor",
        "jetson-agx-xavier",
        "jetson-nano",
        "jetson-orin-nano-nx",
        "jetson-tx2",
        "jetson-xavier-nx",
        "raspberry-pi-4",
        "raspberry-pi-5",
    ]


@pytest.mark.parametrize("one", PROFILES, ids=lambda one: one.name)
def test_a_shipped_profile_is_whole(one: BoardProfile) -> None:
    assert one.detect != type(one.detect)()
    assert any(one.defaults.backend in system.backends for system in one.software)
    assert set(one.power.total) <= {rail.label for rail in one.power.rail}
    named = [(mode.id, mode.name, mode.modules) for mode in one.power_modes.mode]
    assert len(set(named)) == len(named)
    assert one.power_modes.kind == "governor" or named
    source = (FOLDER / f"{one.name}.toml").read_text()
    assert "# Sources" in source or one.name == "generic-arm64"


@pytest.mark.parametrize(
    ("board", "jetpack", "runs"),
    [
        ("jetson-nano", 4, "container"),
        ("jetson-tx2", 4, "container"),
        ("jetson-xavier-nx", 5, "container"),
        ("jetson-agx-xavier", 5, "container"),
        ("jetson-orin-nano-nx", 6, "host"),
        ("jetson-agx-orin", 7, "host"),
        ("jetson-agx-thor", 7, "host"),
    ],
)
def test_tensorrt_is_offered_where_jetpack_has_version_10(
    board: str, jetpack: int, runs: str
) -> None:
    (system,) = [one for one in profile(board).software if one.jetpack == jetpack]
    assert system.runs == runs
    assert ("tensorrt" in system.backends) == (runs == "host")


OWN = """
name = "acme-box"
title = "Acme box"
[detect]
compatible = ["acme,box-*"]
[[software]]
system = "Acme OS"
backends = ["tflite"]
[defaults]
backend = "tflite"
threads = 2
[memory]
keep_free_mib = 64
[power]
total = ["VIN"]
scope = "board"
rail = [{ label = "VIN", driver = "ina238" }, { label = "CPU", driver = "ina3221", within = "VIN" }]
[power_modes]
kind = "governor"
"""


def test_the_page_about_boards_has_every_board_as_its_profile_says() -> None:
    page = (RECORDED.parents[2] / "docs" / "boards.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\S+)` \|(.*)\|(.*)\|(.*)\|$", page, re.MULTILINE)
    said = [tuple(cell.strip() for cell in row) for row in rows]
    assert said == [
        (
            one.name,
            ", ".join(str(system.jetpack) for system in one.software if system.jetpack),
            ", ".join(dict.fromkeys(name for system in one.software for name in system.backends)),
            " + ".join(one.power.total),
        )
        for one in PROFILES
    ]


def test_the_example_of_the_page_about_boards_is_a_profile(tmp_path: Path) -> None:
    page = (RECORDED.parents[2] / "docs" / "boards.md").read_text("utf-8")
    (example,) = re.findall(r"^   ```\n(.*?)^   ```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "acme-box.toml").write_text(example)
    assert load_profile(tmp_path / "acme-box.toml").power.total == ("VIN",)


def test_an_own_profile_serves_like_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(OWN)
    own = load_profile(tmp_path / "acme.toml")
    assert find_profile("acme.toml", base=tmp_path) == own
    assert find_profile("jetson-nano", base=tmp_path) == profile("jetson-nano")
    root = tmp_path / "root"
    put(root, COMPATIBLE, "acme,box-2\0nvidia,p3767-0000\0")
    put(root, "sys/bus/i2c/drivers/ina238/4-0044/hwmon/hwmon0/power1_input", "2500000\n")
    found = detect(root=root, profiles=(own, *PROFILES))
    assert (
        found.profile == own
    )  # what a device tree names first is the board, then comes its module
    assert [(one.label, one.power_w) for one in found.rails] == [("VIN", 2.5)]
    assert found.rails_missing == ("CPU",)


def test_a_configured_own_profile_needs_no_evidence_and_no_excuse(tmp_path: Path) -> None:
    (tmp_path / "acme.toml").write_text(OWN)
    own = load_profile(tmp_path / "acme.toml")
    put(tmp_path / "root", "proc/sys/kernel/arch", "aarch64\n")
    put(tmp_path / "root", COMPATIBLE, "other,board\0")
    found = detect(root=tmp_path / "root", board=own)
    assert (found.profile, found.evidence, found.notes) == (own, None, ())
    put(tmp_path / "root", COMPATIBLE, "acme,box-1\0")
    found = detect(root=tmp_path / "root", board=load_profile(tmp_path / "acme.toml"))
    assert found.evidence is not None
    assert found.evidence.text == "acme,box-1"
    assert found.notes == ()


def test_a_configured_shipped_profile_is_no_rival_of_itself(
    tree_of: Callable[[str], Path],
) -> None:
    root = tree_of("jetson-nano-jetpack-4.6")
    found = detect(root=root, board=profile("jetson-nano"))
    assert found == detect(root=root)


def test_a_device_tree_without_end_is_read_in_part(tmp_path: Path) -> None:
    put(tmp_path, COMPATIBLE, "acme,box\0" * 10_000)
    put(tmp_path, MODEL, "m" * 50_000)
    found = detect(root=tmp_path)
    assert found.model == "m" * 256
    assert found.profile is None


def test_two_profiles_that_fit_alike_are_both_named_and_neither_taken(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(OWN)
    (tmp_path / "b.toml").write_text(OWN.replace("acme-box", "acme-crate"))
    both = (load_profile(tmp_path / "a.toml"), load_profile(tmp_path / "b.toml"))
    put(tmp_path / "root", COMPATIBLE, "acme,box-2\0")
    found = detect(root=tmp_path / "root", profiles=both)
    assert found.profile is None
    assert "fits several boards alike: acme-box, acme-crate" in found.notes


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threads = 2", "treads = 2", "$.defaults.treads: unknown key (did you mean 'threads'?)"),
        ("ina238", "ina239", "$.power.rail[0].driver: 'ina239' is not a choice"),
        ('within = "VIN"', 'inside = "VIN"', "$.power.rail[1].inside: unknown key"),
        ('within = "VIN"', 'within = "VOUT"', "$.power.rail[1].within: 'VOUT' is no rail"),
        ('total = ["VIN"]', 'total = ["VIN", "GPU"]', "$.power.total[1]: 'GPU' is no rail"),
        ('["VIN"]', '["VIN", "CPU"]', "$.power.rail[1].within: the total counts it twice"),
        ('"CPU"', '"VIN"', "$.power.rail[1].label: 'VIN' stands twice"),
        ('scope = "board"', "", "$.power.scope: a total has a scope"),
        ('backend = "tflite"', 'backend = "onnx"', "$.defaults.backend: 'onnx' is usable on none"),
        ("threads = 2", "threads = 0", "$.defaults.threads: Expected `int` >= 1"),
        ('kind = "governor"', 'kind = "govenor"', "did you mean 'governor'?"),
        (
            'kind = "governor"',
            'kind = "governor"\nmode = [{ id = 0, name = "x" }]',
            "$.power_modes.mode: governors are the kernel's",
        ),
        (
            'kind = "governor"',
            'kind = "nvpmodel"\nmode = [{ id = 0, name = "x", modules = ["y"] }]',
            "$.power_modes.mode[0].modules: 'y' is no module of the board",
        ),
        ('name = "acme-box"', 'name = "Acme"', "$.name: Expected `str` matching regex"),
        ("[memory]", "[memory", "not TOML"),
    ],
)
def test_a_mistake_in_a_profile_is_named_by_file_and_key(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in OWN
    (tmp_path / "acme.toml").write_text(OWN.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        load_profile(tmp_path / "acme.toml")
    assert str(caught.value).startswith(f"{tmp_path / 'acme.toml'}: ")
    assert message in str(caught.value)


def test_a_board_that_is_none_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"'jetson-agx-ori' is no board \(did you mean 'jetson-a"):
        find_profile("jetson-agx-ori")
    with pytest.raises(ConfigError, match=r"no board \(known: generic-arm64, "):
        profile("../../etc/passwd")


def test_a_folder_of_profiles_is_refused_where_a_name_is_not_its_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no board profiles here"):
        load_profiles(tmp_path)
    (tmp_path / "other.toml").write_text(OWN)
    with pytest.raises(ConfigError, match=r"other\.toml: holds the board 'acme-box'"):
        load_profiles(tmp_path)


def test_a_profile_that_is_too_large_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big.toml").write_bytes(b"#" * 70_000)
    with pytest.raises(ConfigError, match="is larger than 65536 bytes"):
        load_profile(tmp_path / "big.toml")
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_profile(tmp_path / "none.toml")
    os.mkfifo(tmp_path / "pipe.toml")
    with pytest.raises(ConfigError, match=r"pipe\.toml: is no regular file"):
        load_profile(tmp_path / "pipe.toml")


# -- Recordings


@pytest.mark.parametrize("name", WANTED)
def test_a_recording_tells_the_same_as_the_tree_it_was_made_of(
    name: str, tree_of: Callable[[str], Path], tmp_path: Path
) -> None:
    tree = Tree(tree_of(name))
    found = detect_in(tree, profiles=PROFILES)
    (tmp_path / "again.toml").write_bytes(to_recording(tree))
    plant(tmp_path / "again.toml", tmp_path / "again")
    assert detect(root=tmp_path / "again") == found


def test_a_recording_leaves_the_serial_number_out(tree_of: Callable[[str], Path]) -> None:
    root = tree_of("raspberry-pi-5-raspberry-pi-os-13")
    with (root / "proc/cpuinfo").open("a") as file:
        file.write("Serial\t\t: 10000000abcdef01\nOdd\t: \x7f\x01 \u00e9\n")
    tree = Tree(root)
    detect_in(tree, profiles=PROFILES)
    data = to_recording(tree)
    assert b"10000000abcdef01" not in data
    assert "\u00e9".encode() in data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"../out" = "x"', "leads out of the tree"),
        ('"/etc/x" = "x"', "leads out of the tree"),
        ('"" = "x"', "leads out of the tree"),
        ('"a" = 1', "not a file's text"),
        ('"a" = "x"\n"a/b" = "y"', "cannot be laid out"),
        ('"a\\u0000b" = "y"', "cannot be laid out"),
    ],
)
def test_a_recording_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        plant(tmp_path / "r.toml", tmp_path / "root" / "deep")
    assert not (tmp_path / "root" / "out").exists()
