"""One line on every key of a device's configuration: what it is for, and what it could be.

A test holds this table against the options' classes: no key is without its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from ...telemetry.power.options import PowerOptions
from ...uplink.link.budget import Limits
from ..backends.options import BackendOptions
from ..config import Device, Stream, Telemetry, TelemetryLogConfig, UplinkConfig
from ..events.options import ClipOptions, EventRule
from ..filters.label_options import LabelOptions
from ..gate.options import AuditOptions, GateOptions
from ..privacy import Privacy
from ..sinks.options import (
    CommandSink,
    HttpSink,
    JsonLinesSink,
    MqttSinkConfig,
    SqliteSink,
    TerminalSink,
)
from ..sources.options import (
    AudioSource,
    FolderSource,
    ImagesSource,
    LiveOptions,
    MqttSource,
    ReplaySource,
    SerialSource,
    SocketSource,
    StdinSource,
    VideoSource,
)
from ..tracing.options import TracesOptions


class Note(NamedTuple):
    """Why a key is there; an ``example`` stands where its default is to have none."""

    why: str
    example: Any = None


_DEVICE = {
    "name": Note("who it is, in its topics; a-z, 0-9, _ and -"),
    "site": Note("where it is, before its name in the topics"),
    "state_dir": Note("what it keeps: session, outbox, clips; from this file's folder"),
    "board": Note("the board (`hedge boards`), where it is not known by itself", "raspberry-pi-5"),
}
_STREAM = {
    "name": Note("what outcomes, topics and figures call it"),
    "bundle": Note("the model: a bundle's folder or .hedge file, or one that ships"),
    "pin": Note("its digest: another bundle is refused", "0" * 64),
    "variant": Note("which of its models; else its choice for this board", "int8"),
    "filter": Note("whether its filters may drop samples that cannot matter"),
    "filter_shadow": Note("so many samples are run whatever they say, to watch them"),
    "filter_cache": Note('what a reuse filter knows: "kept" over restarts, or "reset"'),
    "mode": Note('"wait": no sample before the answer to the last'),
    "answer_within_ms": Note("after that the edge's own answer is final"),
    "on_unavailable": Note('without an answer: the "edge" answers, or "abstain"'),
    "window": Note("so many may wait for an answer"),
    "codec": Note("how samples travel: raw, or smaller with some loss (docs/uplink.md)"),
}
_LIVE = {
    "policy": Note('"latest" drops what is not taken in time, "every" waits', "latest"),
    "buffer": Note("so many captures may wait for the model"),
}
_ROWS = {
    "fields": Note("which JSON keys, or columns from 0, are the channels", ("0", "1")),
    "hop": Note("rows from one window to the next; else the bundle's", 64),
    "max_bytes": Note("a longer message is refused"),
    "max_pixels": Note("a larger picture is refused"),
    "format": Note("json, csv, text, tensor or image"),
}
_PICTURES = {
    "region": Note("the part that is looked at: left, top, width, height", (0.0, 0.0, 1.0, 0.5)),
    "max_pixels": Note("a larger picture is refused"),
}
_REPLAY = {
    "path": Note("the samples, from this file's folder"),
    "rate_hz": Note("samples a second; else as fast as it goes", 10.0),
}
_VIDEO = {
    **_PICTURES,
    "url": Note("a file, rtsp://user@host/path, or a device like /dev/video0", "/dev/video0"),
    "pipeline": Note(
        "instead: a GStreamer pipeline that ends in raw video",
        "videotestsrc ! video/x-raw,format=I420",
    ),
    "rate_hz": Note("so many pictures a second are taken; else all", 5.0),
    "realtime": Note("play a file at its own pace"),
    "decoder": Note("a decoder or hardware of FFmpeg; else software", "h264_v4l2m2m"),
    "size": Note("ask a V4L2 device for this width and height", (1280, 720)),
    "fps": Note("ask a V4L2 device for so many pictures a second", 30.0),
    "pixel_format": Note("ask a V4L2 device for this format", "mjpeg"),
    "transport": Note('how RTSP is carried: "tcp" or "udp"'),
    "password_file": Note("the password of rtsp://user@…; chmod 600", "camera-password"),
    "stall_s": Note("without a picture for so long it is opened anew"),
    "threads": Note("so many decode"),
}
_IMAGES = {
    **_PICTURES,
    "path": Note("the folder that others put pictures into"),
    "suffixes": Note("what counts as a picture"),
    "existing": Note("take those that are there already, too"),
    "remove": Note("delete each once it is read"),
    "poll_s": Note("look so often instead of being told (network disks)", 2.0),
}
_AUDIO = {
    "device": Note("ALSA's name of the microphone (`arecord -L`)", "default"),
    "path": Note("instead: a sound file", "sound.wav"),
    "sample_rate_hz": Note("what the device is asked for; else the bundle's", 48_000),
    "channels": Note("how many the device is asked for", 1),
    "channel": Note("which one is taken, from 0; else the mean of all", 0),
    "hop_s": Note("from one window to the next; else the bundle's", 0.5),
    "realtime": Note("play a file at its own pace"),
    "stall_s": Note("without sound for so long it is opened anew"),
}
_SERIAL = {
    **_ROWS,
    "port": Note("the port's device; by-id names stay when others are plugged in"),
    "baud": Note("its speed"),
    "format": Note("what a line is: csv, json or text"),
    "max_line_bytes": Note("a longer line is refused"),
    "stall_s": Note("without a line for so long it is opened anew", 10.0),
}
_MQTT = {
    **_ROWS,
    "topic": Note("what is listened to; + and # stand for any names"),
    "qos": Note("0: what is sent while away is lost; 1: the broker keeps it"),
    "keepalive_s": Note("how soon a silent link is noticed"),
    "broker": Note("another one than that of [uplink]", "mqtt://127.0.0.1:1883"),
    "password_file": Note("the password for that broker's user", "mqtt-password"),
    "ca_file": Note("whom to trust with mqtts://", "ca.pem"),
    "cert_file": Note("the device's own certificate", "device.pem"),
    "key_file": Note("and its key; chmod 600", "device.key"),
}
_SOCKET = {
    **_ROWS,
    "path": Note("where the device listens, from this file's folder"),
    "clients": Note("so many programs may write at once"),
}
_SINK = {
    "path": Note("the file, from this file's folder"),
    "which": Note('"events", "finals" or "all" outcomes with the events'),
    "keep_days": Note("what is older goes; else it stays", 30.0),
}
_JSON_LINES = {
    **_SINK,
    "max_bytes": Note("a new file is begun before this one is larger", 100_000_000),
    "max_age_s": Note("and when it is older", 86_400.0),
    "keep": Note("so many of the earlier files stay"),
}
_SQLITE = {
    **_SINK,
    "max_bytes": Note("the oldest rows go before the file is larger"),
    "commit_s": Note("rows are safe after this time at the latest"),
}
_MQTT_SINK = {
    "which": Note('"finals", or "all": first answers, too'),
    "qos": Note("1: sent again until the broker has it"),
    "max_rate_hz": Note("each stream publishes no more often", 10.0),
    "keep": Note('"disk": what waits survives a power cut'),
    "keep_count": Note("so many may wait"),
    "keep_bytes": Note("and so much"),
    "events": Note("publish events, too"),
}
_HTTP = {
    "listen": Note("PORT or HOST:PORT; without a host for this machine only"),
    "which": _SINK["which"],
    "keep": Note("so many of each stream can be asked for"),
}
_COMMAND = {
    "argv": Note("the program and its arguments; {label} {event} {clip} … are replaced"),
    "which": Note('"events", "finals" or "all"'),
    "states": Note("of an event: opened, closed, clip"),
    "timeout_s": Note("it is ended after this time"),
    "queue": Note("so many may wait for it; more are counted, and left out"),
}
_EVENT = {
    "name": Note("what sinks call it"),
    "labels": Note("what is watched for"),
    "k": Note("it opens when so many"),
    "n": Note("of the last so many samples"),
    "enter": Note("have one of the labels with this probability"),
    "leave": Note("it closes when none of the last n has this"),
    "cooldown_s": Note("then it stays closed for so long"),
    "max_s": Note("and closes after so long, whatever is seen", 600.0),
    "separate": Note("each label opens events of its own"),
}
_CLIP = {
    "pre_s": Note("how much before the event is kept"),
    "post_s": Note("and how much after it"),
    "max_s": Note("a clip is no longer"),
    "max_bytes": Note("and no larger"),
    "keep_bytes": Note("all clips of the stream: the oldest go"),
    "keep_days": Note("no clip is older"),
    "path": Note("below the state directory"),
}
_PRIVACY = {
    "share": Note('"sample", "blurred", "cropped", "features" or "nothing"'),
    "region": Note("the part that cropped shows, or blurred hides", (0.25, 0.25, 0.5, 0.5)),
    "blur": Note("the size of the blocks, as share of the longer side"),
}
_GATE = {
    "messages_per_hour": Note("escalate so many, by moving the gate; 0: as calibrated", 60.0),
    "bytes_per_hour": Note("or so many bytes", 1_000_000.0),
    "promise": Note("tighten the gate when the bundle's promise fails; needs an audit"),
    "drift": Note("say when the scores are not those of calibration any more"),
}
_AUDIT = {
    "share": Note("so many of the samples are drawn, at random"),
    "most_per_hour": Note("so many are asked about"),
    "truth": Note('what is right: what the "cloud" says, or a "label" that somebody sends'),
}
_LABELS = {
    "share": Note("so much of what a filter judges is labelled"),
    "by_lot": Note("of these so many are drawn from all; the rest it is least certain of"),
    "most_per_hour": Note("so many are asked about"),
}
_BACKEND = {
    "use": Note("onnx, tflite or tensorrt; auto: by the file, and by the board"),
    "threads": Note("of one call; else as the board's profile says", 2),
    "providers": Note("of ONNX Runtime, the first that can", ("CPUExecutionProvider",)),
    "provider_options": Note("what they are told", {"CUDAExecutionProvider": {"device_id": "0"}}),
    "session_options": Note("what ONNX Runtime is told", {"session.intra_op.allow_spinning": "0"}),
    "fallback": Note("let the CPU do what a provider does not"),
    "delegate": Note("a TFLite delegate's library", "/usr/lib/libdelegate.so"),
    "delegate_options": Note("what it is told", {"cache": "/tmp"}),  # noqa: S108 -- an example
    "precision": Note("of a TensorRT engine: fp32, fp16 or int8"),
    "calibration": Note("rows (.npz) that int8 engines are calibrated with", "rows.npz"),
}
_UPLINK = {
    "broker": Note("mqtt://, mqtts://, ws:// or wss://user@host:port; no password here"),
    "password_file": Note("its user's password; chmod 600", "broker-password"),
    "ca_file": Note("whom to trust; else the system's authorities", "ca.pem"),
    "cert_file": Note("the device's own certificate", "device.pem"),
    "key_file": Note("and its key; chmod 600", "device.key"),
    "max_packet_bytes": Note("for brokers of MQTT 3.1.1, which do not say", 262_144),
    "keepalive_s": Note("how soon a silent link is noticed"),
    "session_s": Note("so long the broker keeps answers for us"),
    "outbox": Note('"disk" survives a power cut, "memory" spares the flash'),
    "outbox_count": Note("so many asks may wait for the broker"),
    "outbox_bytes": Note("and so much"),
    "min_free_bytes": Note("of the disk is left to others"),
    "evict": Note('when it is full: "surest" or "oldest" goes'),
    "keep_for_s": Note("for so long an ask is kept for delivery"),
    "quiet_hours": Note("when nothing is sent that can wait", ("22:00-06:00",)),
    "home_assistant": Note("announce the device to Home Assistant", example=True),
    "discovery_prefix": Note("where that listens"),
}
_BUDGET = {
    "messages_per_minute": Note("so many messages may go", 60),
    "messages_per_hour": Note("in each time", 1000),
    "messages_per_day": Note("at most", 10_000),
    "bytes_per_minute": Note("and so many bytes", 1_000_000),
    "bytes_per_hour": Note("with all that surrounds them", 10_000_000),
    "bytes_per_day": Note("on the link", 100_000_000),
}
_TELEMETRY = {
    "report": Note("the figures of a run go there when it ends", "report.json"),
    "every_s": Note("publish figures so often; needs [uplink]", 60.0),
    "prometheus": Note("PORT or HOST:PORT where figures can be asked for", "9469"),
}
_LOG = {
    "path": Note("the figures as JSON lines", "telemetry.jsonl"),
    "every_s": Note("so often"),
    "max_bytes": Note("then a new file is begun"),
    "keep": Note("so many of the earlier ones stay"),
}
_POWER = {
    "reader": Note('which sensor; "none": energy is not measured'),
    "path": Note('the recording of "replay"', "power.jsonl"),
    "rate_hz": Note("how often it is read"),
}
_TRACES = {
    "endpoint": Note("an OpenTelemetry collector", "http://127.0.0.1:4318"),
    "share": Note("of the samples that ask"),
    "max_per_s": Note("at most so many a second"),
    "headers_file": Note("lines `Name: value`, as for its key; chmod 600", "collector-headers"),
    "ca_file": Note("whom to trust with https://", "ca.pem"),
}
_NOTES: Mapping[type[Struct], Mapping[str, Note]] = {
    Device: _DEVICE,
    Stream: _STREAM,
    LiveOptions: _LIVE,
    ReplaySource: _REPLAY,
    FolderSource: _REPLAY,
    VideoSource: _VIDEO,
    ImagesSource: _IMAGES,
    AudioSource: _AUDIO,
    SerialSource: _SERIAL,
    MqttSource: _MQTT,
    SocketSource: _SOCKET,
    StdinSource: _ROWS,
    JsonLinesSink: _JSON_LINES,
    TerminalSink: {},
    MqttSinkConfig: _MQTT_SINK,
    SqliteSink: _SQLITE,
    HttpSink: _HTTP,
    CommandSink: _COMMAND,
    EventRule: _EVENT,
    ClipOptions: _CLIP,
    Privacy: _PRIVACY,
    GateOptions: _GATE,
    AuditOptions: _AUDIT,
    LabelOptions: _LABELS,
    BackendOptions: _BACKEND,
    UplinkConfig: _UPLINK,
    Limits: _BUDGET,
    Telemetry: _TELEMETRY,
    TelemetryLogConfig: _LOG,
    PowerOptions: _POWER,
    TracesOptions: _TRACES,
}


def note_of(kind: type[Struct], key: str) -> Note | None:
    """Return what there is to say of a key; None: nothing is known of it, or it is a table."""
    for one in (kind, *kind.__mro__):
        if key in _NOTES.get(one, {}):
            return _NOTES[one][key]
    return None
