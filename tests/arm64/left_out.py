"""Which tests are not run under emulation, and why: one place, and told in the results."""

from __future__ import annotations

from typing import NamedTuple


class LeftOut(NamedTuple):
    """Files of tests, or what names of single tests begin with, that share a reason."""

    tests: tuple[str, ...]
    reason: str


_KILLED = "test_a_writer_killed_at_any_moment_loses_nothing_that_it_had_committed"
_READY_MADE = "test_predictions_are_those_of_the_bare_interpreter_and_as_good_as_promised"

LEFT_OUT = (
    LeftOut(
        ("test_training.py",),
        "training needs torch and scikit-learn, and is no work for a board",
    ),
    LeftOut(
        ("test_device_faults.py", "test_outbox_faults.py", "test_fuzz.py", "test_soak.py"),
        "the harnesses take minutes without emulation, and try logic that knows no processor",
    ),
    LeftOut(
        (
            "test_restart.py",
            "test_cluster.py",
            "test_commands.py::test_an_interruption_at_any_moment_is_one_line",
            "test_demo.py::test_a_broker_killed_midway_leaves_every_sample_answered",
            "test_demo.py::test_a_demo_that_is_killed_leaves_no_process_behind",
            "test_demo.py::test_a_device_that_is_stopped_early_is_no_success",
            "test_demo.py::test_a_worker_killed_midway_leaves_every_sample_answered",
            "test_demo.py::test_interrupting_the_demo_shuts_everything_down",
            "test_outbox_command.py::test_a_look_while_the_owner_is_writing_is_never_wrong",
            f"test_record_log.py::{_KILLED}",
        ),
        "kills, interrupts or races processes by the fraction of a second, in which an emulated "
        "Python has not even started; or takes minutes for the same reason",
    ),
    LeftOut(
        (
            "test_probe.py::test_a_small_file_that_wants_four_gigabytes_does_not_get_them",
            "test_probe.py::test_memory_that_python_cannot_get_is_one_line",
        ),
        "the emulator does not pass a limit of memory (RLIMIT_AS) on to the kernel",
    ),
    LeftOut(
        (
            "test_house.py::test_the_wheel_holds_every_module_of_every_room",
            "test_house.py::test_the_wheel_holds_no_tests_no_setup_and_nothing_outside_the_package",
            "test_house.py::test_the_wheel_holds_the_shipped_bundle_and_the_type_marker",
        ),
        "build a wheel with git: the wheel under test was built outside",
    ),
    LeftOut(
        tuple(
            f"test_ready_made.py::{_READY_MADE}[{name}" for name in ("mlperf_tiny_ic", "tflm_mnist")
        ),
        "thousands of rows: the same models run on fewer of them, see models below",
    ),
    LeftOut(
        ("test_open_inference.py",),
        "needs a model server beside, which runs where the cloud is",
    ),
)


def options() -> list[str]:
    """Return what pytest has to be told."""
    named = [name for one in LEFT_OUT for name in one.tests]
    return [f"--{'deselect' if '::' in name else 'ignore'}=tests/{name}" for name in named]
