"""What happens to a device in the field, one scenario after the other, on one disk.

Each is given the device as it serves, leaves it serving, and returns its figures; `Wrong` is
raised where something is not as it has to be.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

from .container import Wrong
from .device import CONFIG, HEDGE, UNIT, WORKER, Device

READY_S = 3.0
STOP_S = 5.0
_ASKS = 20  # that lie on disk when something happens
_WORKER = ("digits", "--broker", "mqtt://hedge@127.0.0.1:1884")
_BROKEN = '[device]\nname = "porch-7"\nsite_dir = "x"\n'
_MODELS = Path(__file__).with_name("models_inside.py")

Figures = dict[str, Any]
Scenario = Callable[[Device, int], Figures]


def install(device: Device, repeats: int) -> Figures:  # noqa: ARG001 -- as all scenarios
    """Print first, apply, apply again, and leave alone what somebody has changed."""
    unit = device.container.root / "etc/systemd/system" / UNIT
    printed = device.run(HEDGE, "service", "install")
    if unit.exists() or "ExecStart=/opt/hedge/bin/hedge run" not in printed:
        raise Wrong("without --apply something was changed, or nothing was printed")
    config = device.container.root / CONFIG.lstrip("/")
    config.chmod(0o600)
    begun_s = time.monotonic()
    device.run(HEDGE, "service", "install", "--apply")
    seconds = time.monotonic() - begun_s
    if device.show("ActiveState") != "active" or device.show("UnitFileState") != "enabled":
        raise Wrong("it is installed, but not active and enabled")
    first_s, pid = device.ready_s(), device.pid
    device.run(HEDGE, "service", "install", "--apply")
    if device.pid != pid:
        raise Wrong("installing it again has restarted it")
    unit.write_text(unit.read_text("utf-8") + "# by hand\n", "utf-8")
    if "by hand" not in _refused(device, "service", "install", "--apply", unit=unit):
        raise Wrong("a unit that was changed by hand was overwritten")
    device.run(HEDGE, "service", "install", "--apply", "--force")
    password = ("--password-file", "/etc/hedge/worker-password")
    device.run(HEDGE, "service", "install", "--worker", "--apply", "--", *_WORKER, *password)
    device.systemctl("disable", "--now", WORKER)  # away, until the end
    exposure = [_exposure(device, unit) for unit in (UNIT, WORKER)]
    return {
        "seconds_install": round(seconds, 2),
        "first_ready_s": round(first_s, 2),
        "exposure": dict(zip((UNIT, WORKER), exposure, strict=True)),
        "user": device.run("stat", "-c", "%u", f"/proc/{device.pid}").strip() != "0",
    }


def _refused(device: Device, *words: str, unit: Path) -> str:
    with contextlib.suppress(Wrong):
        device.run(HEDGE, *words)
        raise SystemExit("a command that has to fail did not")
    return unit.read_text("utf-8")


def _exposure(device: Device, unit: str) -> float:
    told = device.run("systemd-analyze", "security", "--no-pager", unit)
    return float(told.rpartition(": ")[2].split()[0])


def status(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """`hedge service status` says that it serves, and what the daemon says of itself."""
    text = device.run(HEDGE, "service", "status")
    if "active (running), enabled" not in text or "watchdog  20 s" not in text:
        raise Wrong(f"status says: {text!r}")
    return {"lines": text.strip().splitlines()}


def ready(device: Device, repeats: int) -> Figures:
    """Start again and again: READY in time."""
    taken = []
    for _ in range(repeats):
        device.systemctl("stop", UNIT)
        device.systemctl("start", UNIT)
        taken.append(device.ready_s())
    _ensure_ready_in_time(taken)
    return {"starts": repeats, **_summary(taken, "ready_s")}


def _ensure_ready_in_time(taken: list[float]) -> None:
    """Judge by the median: whoever else uses this machine is not the device's fault."""
    if statistics.median(taken) > READY_S:
        raise Wrong(f"READY took {statistics.median(taken):.2f} s, more than {READY_S} s")


def no_network(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Start, stop and start with no network at all; when it comes, the broker is found."""
    device.network(up=False)
    try:
        stopping_s = time.monotonic()
        device.systemctl("stop", UNIT)
        stop_s = time.monotonic() - stopping_s
        device.systemctl("start", UNIT)
        taken_s, before = device.ready_s(), len(device.outcomes())
        kept = device.gather(_ASKS)
        served = len(device.outcomes()) - before
    finally:
        device.network(up=True)
    _ensure_ready_in_time([taken_s])
    if stop_s > STOP_S:
        raise Wrong(f"a stop without a network took {stop_s:.2f} s, more than {STOP_S} s")
    begun_s = time.monotonic()
    device.until(lambda: device.stat()["sent"] > 0, "nothing is sent when the network is back")
    return {
        "stop_s": round(stop_s, 2),
        "ready_s": round(taken_s, 2),
        "outcomes_without_network": served,
        "asks_kept": device.ensure_kept(kept, why="the network came"),
        "sent_after_s": round(time.monotonic() - begun_s, 2),
    }


def kill(device: Device, repeats: int) -> Figures:
    """Kill -9: it comes back, and the outbox holds what it did."""
    taken, kept = [], 0
    for _ in range(repeats):
        before, pid = device.gather(_ASKS), device.pid
        device.signal("KILL")
        taken.append(device.await_restart(pid))
        kept = device.ensure_kept(before, why="kill -9")
    return {"kills": repeats, "asks_kept": kept, **_summary(taken, "back_after_s")}


def hang(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Stop all threads of the daemon: the watchdog ends it, and it comes back."""
    return _hung(device, lambda: _stopped(device))


@contextlib.contextmanager
def _stopped(device: Device) -> Iterator[None]:
    device.signal("STOP")
    yield


def hang_loop(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Hold the loop's thread alone, while all others go on: it is the loop that is watched."""
    if shutil.which("strace") is None:
        return {"skipped": "no strace: apt-get install strace"}
    return _hung(device, lambda: _held(_outside(device, device.pid)))


def _hung(device: Device, hung: Callable[[], AbstractContextManager[None]]) -> Figures:
    """Let it hang until the watchdog strikes; it has to come back with its outbox."""
    before, pid, barks = device.gather(_ASKS), device.pid, _barks(device)
    begun_s = time.monotonic()
    with hung():
        device.until(lambda: _barks(device) > barks, "no watchdog", timeout_s=60)
    watchdog_s = time.monotonic() - begun_s
    device.await_restart(pid)
    return {
        "watchdog_after_s": round(watchdog_s, 1),
        "back_after_s": round(time.monotonic() - begun_s, 1),
        "asks_kept": device.ensure_kept(before, why="the watchdog"),
        "threads_told": device.journal().count("most recent call first"),
    }


def _barks(device: Device) -> int:
    return device.journal().count("Watchdog timeout")


def _outside(device: Device, pid: int) -> int:
    """Return the number that a process of the container has outside of it."""
    place = psutil.Process(device.container.leader)
    for child in place.children(recursive=True):
        line = next(
            line
            for line in Path(f"/proc/{child.pid}/status").read_text("utf-8").splitlines()
            if line.startswith("NSpid:")
        )
        if int(line.split()[-1]) == pid:
            return child.pid
    raise Wrong(f"process {pid} is not to be seen from outside")


@contextlib.contextmanager
def _held(pid: int) -> Iterator[None]:
    """Let each wait of one thread take a minute more."""
    inject = "inject=futex,clock_nanosleep,poll,ppoll,select,pselect6,write:delay_exit=60000000"
    with subprocess.Popen(
        ["strace", "-q", "-p", str(pid), "-e", "trace=all", "-e", inject, "-o", os.devnull],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as tracer:
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGKILL)


def disk_full(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Fill the disk: it goes on answering, survives a kill, and stores again when there is room."""
    before, pid = device.gather(_ASKS), device.pid
    device.fill_disk()
    try:
        time.sleep(5)
        if device.pid != pid or device.show("ActiveState") != "active":
            raise Wrong("a full disk has ended the device")
        device.signal("KILL")
        time.sleep(10)
        while_full, code = device.show("ActiveState"), device.show("ExecMainStatus")
    finally:
        device.free_disk()
    begun_s = time.monotonic()
    device.await_state("active", timeout_s=30)
    device.gather(1)
    stores_s = time.monotonic() - begun_s
    device.systemctl("restart", UNIT)  # what it could not write would be exit code 1 later
    return {
        "asks_kept": device.ensure_kept(before, why="a full disk"),
        "killed_while_full": f"{while_full}, exit code {code}",
        "stores_again_after_s": round(stores_s, 1),
    }


def reload(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Reload what is wrong, and then what is right: the same process serves on."""
    pid, before = device.pid, device.gather(1)
    device.configure(text=_BROKEN)
    begun_s = time.monotonic()
    device.systemctl("reload", UNIT)
    device.until(lambda: "last good" in device.show("StatusText"), "nobody says what was wrong")
    said, said_s = device.show("StatusText"), time.monotonic() - begun_s
    _serves(device, pid, "a wrong configuration")
    device.configure(within_ms=3_000_000)
    device.systemctl("reload", UNIT)
    device.until(lambda: device.show("StatusText") == "serving", "the right one is not taken up")
    _serves(device, pid, "a right configuration")
    device.configure()
    return {
        "said": said,
        "said_after_s": round(said_s, 2),
        "asks_kept": device.ensure_kept(before, why="a reload"),
    }


def _serves(device: Device, pid: int, after: str) -> None:
    count = len(device.outcomes())
    device.until(lambda: len(device.outcomes()) > count, f"no outcomes after {after}")
    if device.pid != pid or device.show("ActiveState") != "active":
        raise Wrong(f"after {after} it is {device.show('ActiveState')}, process {device.pid}")


def wrong_start(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Start with a wrong configuration: one line, exit code 2, and no restarts for nothing."""
    device.systemctl("stop", UNIT)
    device.configure(text=_BROKEN)
    device.run("systemctl", "start", UNIT, check=False)
    device.await_state("failed", timeout_s=20)
    time.sleep(3)
    code, restarts, said = device.show("ExecMainStatus"), device.show("NRestarts"), _error(device)
    device.configure()
    device.systemctl("reset-failed", UNIT)
    device.systemctl("start", UNIT)
    if (code, restarts) != ("2", "0") or "site_dir" not in said:
        raise Wrong(f"exit code {code}, {restarts} restarts, said {said!r}")
    return {"exit_code": 2, "restarts": 0, "said": said}


def _error(device: Device) -> str:
    told = device.run("journalctl", "-u", UNIT, "-o", "cat", "-n", "20").splitlines()
    return next((line for line in reversed(told) if line.startswith("hedge: ")), "")


def journal(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Find what is wrong in the journal, by priority and by field."""
    wanted = ("-u", UNIT, "-p", "err", "-o", "json", "HEDGE_LOGGER=hedge.runtime.reload")
    entries = [json.loads(line) for line in device.run("journalctl", *wanted).splitlines()]
    if not any("last good" in entry["MESSAGE"] for entry in entries):
        raise Wrong("the refused configuration is not among the errors of the journal")
    return {"errors": len(entries), "said": entries[-1]["MESSAGE"]}


def stop(device: Device, repeats: int) -> Figures:
    """Stop in an orderly way, in time; whatever waited is still there."""
    taken = []
    for _ in range(repeats):
        before = device.gather(1)
        begun_s = time.monotonic()
        device.systemctl("stop", UNIT)
        taken.append(time.monotonic() - begun_s)
        if device.show("Result") != "success" or device.show("ExecMainStatus") != "0":
            raise Wrong(f"it ended as {device.show('Result')}")
        device.ensure_kept(before, why="a stop")
        device.systemctl("start", UNIT)
    if max(taken) > STOP_S:
        raise Wrong(f"a stop took {max(taken):.2f} s, more than {STOP_S} s")
    return {"stops": repeats, **_summary(taken, "stop_s")}


def reboot(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Reboot the machine: it comes back by itself, with its outbox."""
    before, begun_s = device.gather(_ASKS), time.monotonic()
    device.container.reboot()
    device.await_state("active")
    return {
        "asks_kept": device.ensure_kept(before, why="a reboot"),
        "back_after_s": round(time.monotonic() - begun_s, 1),
        "ready_s": round(device.ready_s(), 2),
    }


def power_cut(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Kill the whole machine at once: it comes back by itself, with its outbox."""
    before, begun_s = device.gather(_ASKS), time.monotonic()
    device.container.cut()
    device.await_state("active")
    return {
        "asks_kept": device.ensure_kept(before, why="a loss of power"),
        "back_after_s": round(time.monotonic() - begun_s, 1),
    }


def deliver(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Let the worker come: all that was stored is answered."""
    begun_s, owed = time.monotonic(), device.outbox()
    device.systemctl("start", WORKER)
    device.until(lambda: not owed & device.outbox(), "the outbox is not emptied", timeout_s=180)
    return {"asks": len(owed), "emptied_after_s": round(time.monotonic() - begun_s, 1)}


def restarts(device: Device, repeats: int) -> Figures:
    """Restart it many times in a row, under traffic: each time it is ready."""
    taken = []
    for number in range(repeats):
        device.systemctl("restart", UNIT)
        taken.append(device.ready_s())
        if device.show("ActiveState") != "active":
            raise Wrong(f"restart {number + 1} ended as {device.show('ActiveState')}")
        if number % 10 == 0:
            device.outbox()  # what is owed now has to be answered in the end
    _ensure_ready_in_time(taken)
    return {"restarts": repeats, **_summary(taken, "ready_s")}


def credentials(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Hand the broker's password over by LoadCredential, from a file that is root's alone."""
    more = 'password_file = "broker-password"'
    device.configure(broker="mqtt://hedge@127.0.0.1:1884", more=more)
    device.run(HEDGE, "service", "install", "--apply")
    unit = (device.container.root / "etc/systemd/system" / UNIT).read_text("utf-8")
    if "LoadCredential=broker-password:/etc/hedge/broker-password" not in unit:
        raise Wrong("the unit hands no password over")
    if device.show("ActiveState") != "active":
        raise Wrong(f"it does not serve: {device.last_words()}")
    before = device.account()["answered_once"]
    device.outbox()
    device.until(
        lambda: bool(device.outbox()) and device.account()["answered_once"] > before,
        "nothing is answered over the broker that wants a password",
    )
    return {"answered": True}


def drop_ins(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Install what a GPU and a power chip need: it serves on a machine that has neither."""
    wanted = ("service", "install", "--gpu", "--pmic", "--apply")
    said = device.run("sh", "-c", f"{HEDGE} {' '.join(wanted)} 2>&1", check=False)
    if "no group render" not in said:  # Debian's smallest has none, and systemd wants it
        raise Wrong(f"a missing group is not in the way: {said!r}")
    device.run("groupadd", "--system", "render")
    device.run(HEDGE, *wanted)
    if device.show("ActiveState") != "active":
        raise Wrong(f"it does not serve: {device.last_words()}")
    text = device.run("cat", f"/proc/{device.pid}/status")
    (line,) = (line for line in text.splitlines() if line.startswith("Groups:"))
    told = device.run("getent", "group", *line.split()[1:], check=False)  # its own has no name
    groups = [one.partition(":")[0] for one in told.splitlines()]
    if not {"video", "render"} <= set(groups):
        raise Wrong(f"its groups are {groups}")
    return {"groups": groups, "exposure": _exposure(device, UNIT)}


def models(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Run ONNX Runtime and LiteRT under the unit's own restrictions, MemoryDenyWriteExecute too."""
    named = os.environ.get("HEDGE_DATA")
    place = device.container.root / "opt" / "models"
    place.mkdir(exist_ok=True)
    shutil.copy(_MODELS, place / "run.py")
    for file in sorted(Path(named, "models").glob("*.tflite")) if named else ():
        shutil.copy(file, place)
    unit = (device.container.root / "etc/systemd/system" / UNIT).read_text("utf-8")
    lines = [
        line
        for line in unit.splitlines()
        if not line.startswith(("Type=", "ExecStart=", "ExecReload=", "WatchdogSec=", "Restart="))
    ]
    at = lines.index("[Service]") + 1
    lines[at:at] = ["Type=oneshot", "ExecStart=/opt/hedge/bin/python /opt/models/run.py"]
    text = "\n".join(line for line in lines if not line.startswith("StateDirectory"))
    text = text.replace("WorkingDirectory=%S/hedge", "WorkingDirectory=/")
    (device.container.root / "etc/systemd/system/models.service").write_text(text + "\n")
    device.systemctl("daemon-reload")
    device.systemctl("start", "models.service")
    told = device.run("journalctl", "-u", "models.service", "-o", "cat", "-n", "100")
    ran = [line.removeprefix("ran ") for line in told.splitlines() if line.startswith("ran ")]
    if "write and execute: refused" not in told or not ran:
        raise Wrong(f"the restriction is not in force, or nothing ran: {told[-300:]!r}")
    return {"ran": sorted({line.rpartition(", ")[0] for line in ran})}


def account(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """In the end every ask that was ever on disk has one final outcome, and was answered once."""
    device.until(lambda: not device.account()["unanswered"], "some are not answered", timeout_s=60)
    left = device.stat()
    figures = {
        **device.account(),
        **{key: left[key] for key in ("dead", "quarantined", "damaged_files", "lost")},
    }
    must_be_none = ("unanswered", "answered_twice", "without_final", "lost", "dead")
    if any(figures[key] for key in must_be_none):
        raise Wrong(f"asks were lost, or answered twice: {figures}")
    return figures


def uninstall(device: Device, repeats: int) -> Figures:  # noqa: ARG001
    """Remove it: the unit is gone, the state stays, and the command says where."""
    told = device.run(HEDGE, "service", "uninstall", "--apply")
    unit = device.container.root / "etc/systemd/system" / UNIT
    if unit.exists():
        raise Wrong("the unit is still there")
    if not (device.container.state / "outcomes.jsonl").exists():
        raise Wrong("the state is gone")
    if list(unit.parent.glob(f"{UNIT}.d/*.conf")):
        raise Wrong("drop-ins are still there")
    if device.show("LoadState") != "not-found":
        raise Wrong("systemd still knows it")
    return {"said": told.strip().splitlines()[-1]}


def _summary(taken: list[float], name: str) -> Mapping[str, float]:
    return {
        f"{name}_median": round(statistics.median(taken), 2),
        f"{name}_most": round(max(taken), 2),
    }


SCENARIOS: Mapping[str, tuple[Scenario, int, int]] = {
    "install": (install, 1, 1),
    "status": (status, 1, 1),
    "ready": (ready, 10, 3),
    "no_network": (no_network, 1, 1),
    "kill": (kill, 5, 2),
    "reload": (reload, 1, 1),
    "wrong_start": (wrong_start, 1, 1),
    "journal": (journal, 1, 1),
    "disk_full": (disk_full, 1, 1),
    "stop": (stop, 3, 1),
    "reboot": (reboot, 1, 1),
    "power_cut": (power_cut, 1, 1),
    "hang": (hang, 1, 1),
    "hang_loop": (hang_loop, 1, 0),
    "deliver": (deliver, 1, 1),
    "restarts": (restarts, 100, 10),
    "credentials": (credentials, 1, 1),
    "models": (models, 1, 1),
    "drop_ins": (drop_ins, 1, 1),
    "account": (account, 1, 1),
    "uninstall": (uninstall, 1, 1),
}
"""By name: what is done, how often, and how often in a quick run (0: not at all)."""
