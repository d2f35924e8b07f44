"""What to install for a device, found from its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ..config import Config, load_config
from ..local_server.endpoint import address_of
from ..shipped import bundle_path
from ..sinks.options import CommandSink, HttpSink, JsonLinesSink, SqliteSink
from ..sources.opening import is_file
from ..sources.options import (
    AudioSource,
    FolderSource,
    ImagesSource,
    MqttSource,
    ReplaySource,
    SerialSource,
    SocketSource,
    StdinSource,
    VideoSource,
)
from .plan import Command, LetRead, Plan, Step, WriteFile
from .reach import (
    closed,
    hidden,
    is_missing,
    is_open,
    on_this_machine,
    program_problems,
    resolved,
    unreachable,
)
from .steps import finish
from .units import RULES, UNITS, Need, credential_problem, shipped, unit_text

STATE = Path("/var/lib/hedge")
"""The state directory, which StateDirectory= of the unit makes."""

RUN = Path("/run/hedge")
"""Where programs find its sockets, which RuntimeDirectory= of the unit makes."""

_PRIVILEGED = 1024  # ports below it are for who has the capability
_UNITS = "/etc/systemd/system"
_RULES = "/etc/udev/rules.d"
_GROUPS: Mapping[Need, tuple[str, ...]] = {
    "gpu": ("video", "render"),
    "pmic": ("video",),
    "rapl": ("hedge-power",),
    "camera": ("video",),
    "sound": ("audio",),
    "serial": ("dialout",),
}
_SECRETS = ("password_file", "ca_file", "cert_file", "key_file")


def plan_device(
    config_path: Path,
    *,
    program: Sequence[str],
    root: Path = Path("/"),
    needs: Sequence[Need] = (),
    environ: Mapping[str, str],
) -> Plan:
    """Return what would be done to have a device run as a service.

    What its live sources need is found from the configuration, and added to ``needs``.
    ``config_path`` and ``program``, the command that starts hedge, are as seen from within
    ``root``, the file system that is installed into.

    Raises:
        ConfigError: the configuration cannot be read or is wrong.
    """
    config_path = Path("/") / config_path
    seen = on_this_machine(config_path, root=root)
    own = {name: text for name, text in environ.items() if not name.startswith("HEDGE__")}
    config = load_config(seen, environ=own)  # a variable of this shell is none of the service's
    base = config_path.parent
    needs = [*needs, *(need for need in _sources_need(config) if need not in needs)]
    secrets = _secrets(config, base=base, root=root)
    text = unit_text("device", command=(*program, "run", str(config_path)), credentials=secrets)
    unit = UNITS["device"]
    steps: list[Step] = [WriteFile(path=f"{_UNITS}/{unit}", text=text)]
    for need in needs:
        drop_in = f"{_UNITS}/{unit}.d/{need}.conf"
        steps.append(WriteFile(path=drop_in, text=shipped(f"drop-ins/{need}.conf")))
    if "rapl" in needs:
        steps.append(WriteFile(path=f"{_RULES}/{RULES}", text=shipped(RULES)))
        steps += _rapl_commands(root)
    shut = closed(config_path, root=root)
    if shut is not None and shut == resolved(config_path, root=root):
        steps.append(LetRead(path=str(shut)))
    problems = [
        *program_problems(program, root=root),
        *_group_problems(needs, root=root),
        *_config_problems(config, config_path, root=root, secrets=secrets),
    ]
    return finish(
        unit, steps, root=root, problems=problems, notes=_notes(secrets, needs, root=root)
    )


def _sources_need(config: Config) -> list[Need]:
    """Return what the devices that the streams read ask of the unit."""
    found: dict[Need, None] = {}
    for stream in config.stream:
        match stream.source:
            case VideoSource(url=url) if url is None or url.startswith("/dev/"):
                found["camera"] = None
            case AudioSource(device=device) if device is not None:
                found["sound"] = None
            case SerialSource():
                found["serial"] = None
    return list(found)


def _secrets(config: Config, *, base: Path, root: Path) -> dict[str, Path]:
    """Return the files that the service itself cannot read, by bare name."""
    paths = [base / name for _, name in _secret_names(config)]
    return {
        path.name: path
        for path in paths
        if not is_open(path, root=root) and credential_problem(path) is None
    }


def _secret_names(config: Config) -> Iterator[tuple[str, str]]:
    """Give key and name of each file that systemd can hand over."""
    uplink, traces = config.uplink, config.telemetry.traces
    for stream in config.stream:
        if isinstance(stream.source, MqttSource):
            yield from _named(f"stream {stream.name}: source", stream.source, _SECRETS)
        elif isinstance(stream.source, VideoSource):
            yield from _named(f"stream {stream.name}: source", stream.source, _SECRETS[:1])
    if uplink is not None:
        yield from _named("uplink", uplink, _SECRETS)
    if traces is not None:
        yield from _named("telemetry.traces", traces, ("headers_file", "ca_file"))


def _named(table: str, record: Struct, keys: Sequence[str]) -> Iterator[tuple[str, str]]:
    for key in keys:
        name = getattr(record, key)
        if name is not None:
            yield f"{table}.{key}", name


def _rapl_commands(root: Path) -> Sequence[Step]:
    """Return what makes the group of the energy counters and puts its rule to work."""
    if root != Path("/"):
        return ()
    return (
        Command(words=("groupadd", "--system", "--force", "hedge-power")),
        Command(words=("udevadm", "control", "--reload")),
        Command(words=("udevadm", "trigger", "--subsystem-match=powercap")),
    )


def _group_problems(needs: Sequence[Need], *, root: Path) -> Iterator[str]:
    """Say which groups are missing: systemd starts no service that names such a one."""
    try:
        lines = (root / "etc/group").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    there = {line.partition(":")[0] for line in lines}
    made = {"hedge-power"} if root == Path("/") else set()  # by a step of the plan
    for need in needs:
        for group in _GROUPS[need]:
            if group not in there | made:
                yield f"{_why(need)}: there is no group {group} (groupadd --system {group})"


def _why(need: Need) -> str:
    return f"a stream's {need}" if need in {"camera", "sound", "serial"} else f"--{need}"


def _config_problems(
    config: Config, config_path: Path, *, root: Path, secrets: Mapping[str, Path]
) -> Iterator[str]:
    """Say what of the configuration the service could not reach."""
    base = config_path.parent
    shut = closed(config_path, root=root)
    if place := hidden(config_path, root=root):
        yield f"{config_path}: the service does not see {place}; /etc/hedge is a good place"
    elif shut not in {None, resolved(config_path, root=root)}:
        yield f"{config_path}: others may not enter {shut} (chmod a+x {shut})"
    if Path(config.device.state_dir) != STATE:
        yield (
            f"{config_path}: device.state_dir is {config.device.state_dir}: the service may write "
            f"{STATE} alone; leave the key out"
        )
    for name, path in _inputs(config, base=base, root=root):
        yield from unreachable(path, root=root, what=name)
    for name in _outputs(config):
        if not (base / name).is_relative_to(STATE):
            yield f"{base / name}: the service may write below {STATE} alone"
    yield from _source_problems(config, base=base, root=root)
    yield from _secret_problems(config, base=base, root=root, secrets=secrets)


def _source_problems(config: Config, *, base: Path, root: Path) -> Iterator[str]:
    for sink in config.sink:
        if isinstance(sink, CommandSink):
            yield from unreachable(Path(sink.argv[0]), root=root, what="sink.argv")
        elif isinstance(sink, HttpSink) and address_of(sink.listen)[1] < _PRIVILEGED:
            yield f"sink.listen: the service may not listen at {sink.listen}; take 1024 or above"
    for stream in config.stream:
        match stream.source:
            case StdinSource():
                yield f"stream {stream.name}: a service has no standard input; take a socket"
            case SocketSource(path=path) if not (base / path).is_relative_to(RUN):
                yield f"{base / path}: the service may make a socket below {RUN} alone"
            case ImagesSource(path=path, remove=True) if not (base / path).is_relative_to(STATE):
                yield f"{base / path}: the service may remove files below {STATE} alone"


def _secret_problems(
    config: Config, *, base: Path, root: Path, secrets: Mapping[str, Path]
) -> Iterator[str]:
    for key, name in _secret_names(config):
        path = base / name
        if is_missing(path, root=root):
            yield f"{path}: {key} is not there"
        elif not is_open(path, root=root) and (why := credential_problem(path)):
            yield why
        if secrets.get(path.name, path) != path:
            yield f"{path}: another secret is called {path.name}, too; rename one"


def _inputs(config: Config, *, base: Path, root: Path) -> Iterator[tuple[str, Path]]:
    """Give what is read besides what ships with hedge, and by which stream or key."""
    recording = config.telemetry.power.path
    if recording is not None:
        yield "telemetry.power.path", base / recording
    seen = root / base.relative_to("/")
    for stream in config.stream:
        if bundle_path(stream.bundle, base=seen) == seen / stream.bundle:
            yield stream.name, base / stream.bundle
        if stream.backend.calibration is not None:
            yield stream.name, base / stream.backend.calibration
        match stream.source:
            case ReplaySource(path=path) | FolderSource(path=path) | ImagesSource(path=path):
                yield stream.name, base / path
            case AudioSource(path=str(path)):
                yield stream.name, base / path
            case VideoSource(url=str(url)) if is_file(url):
                yield stream.name, base / url


def _outputs(config: Config) -> Iterator[str]:
    """Give the files that the daemon would write besides its state."""
    for sink in config.sink:
        if isinstance(sink, JsonLinesSink | SqliteSink):
            yield sink.path
    for stream in config.stream:
        for rule in stream.event:
            if rule.clip is not None:
                yield str(Path(config.device.state_dir) / rule.clip.path)
    if config.telemetry.report is not None:
        yield config.telemetry.report
    if config.telemetry.log is not None:
        yield config.telemetry.log.path


def _notes(secrets: Mapping[str, Path], needs: Sequence[Need], *, root: Path) -> Iterator[str]:
    if secrets:
        yield f"systemd reads {', '.join(sorted(secrets))} at each start and hands them over"
    folder = root / _UNITS.lstrip("/") / f"{UNITS['device']}.d"
    others = {one.name for one in folder.glob("*.conf")} - {f"{need}.conf" for need in needs}
    if others:
        yield f"{', '.join(sorted(others))} in {folder} stay in force"
