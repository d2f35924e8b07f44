"""The manifest of a bundle: `manifest.toml` as frozen records.

Unknown keys are refused, so that a spelling mistake cannot silently change what a model
means. Only the form is checked here; `bundle` checks the files against it.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

FORMAT = 1

Name = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}$")]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
Positive = Annotated[int, Meta(ge=1)]
Head = Literal["evidential", "softmax", "none"]
Output = Literal["logits", "probabilities"]
State = Literal["kept", "reset"]
Score = Literal["vacuity", "max_prob", "entropy", "margin", "p_norm"]
DType = Literal["uint8", "int8", "int16", "float16", "float32"]


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one sample is, as a source gives it and as it travels over the wire.

    ``shape`` is that of one sample, without the batch axis. Where ``scale`` or ``offset``
    stand, the graph is fed float32 ``(x - offset) * scale``; else the sample as it is.
    """

    kind: Literal["tensor", "image", "audio", "text"]
    shape: tuple[Positive, ...]
    dtype: DType
    layout: str | None = None
    scale: float | None = None
    offset: float | None = None
    tokenizer: str | None = None


class Quantised(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a variant was made int8: from which variant, by what, with ranges from which rows.

    ``rows`` is how many, ``data_sha256`` which (see `dataset.digest`).
    """

    variant: Name
    method: Annotated[str, Meta(pattern=r"^[ -~]{1,200}\Z")]
    rows: Positive
    data_sha256: Sha256


class Edge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant of the small model.

    ``output_name`` is the graph's output that holds the (B, K); None: its first. ``state`` is
    for graphs that keep one (TFLite's recurrent nets): "kept" (None, too) from sample to sample,
    as for the windows of one stream, or "reset" before each, where none follows another.
    """

    name: Name
    file: str
    format: Literal["onnx", "tflite"] = "onnx"
    output: Output = "logits"
    head: Head = "softmax"
    precision: Literal["float", "int8"] = "float"
    output_name: str | None = None
    state: State | None = None
    quantised: Quantised | None = None


class Choice(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which variant runs on a board, in one of its power modes or in all of them.

    ``by`` says what was looked at; the figures are those of the choice, where they were measured.
    """

    board: Name
    power_mode: str | None = None
    variant: Name
    by: Literal["latency", "energy", "accuracy", "hand"]
    latency_ms: float | None = None
    energy_j: float | None = None
    accuracy: float | None = None


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A learned input filter.

    A skip filter gives one logit per sample, (B, 1): the sample is dropped where its
    sigmoid is at most ``threshold``. ``redundant`` names the labels that cannot matter:
    the rule by which the filter was taught, and by which it is judged.
    """

    kind: Literal["skip", "reuse"]
    file: str
    threshold: Annotated[float, Meta(ge=0, le=1)]
    redundant: tuple[str, ...]
    attach: Literal["input", "feature"] = "input"
    format: Literal["onnx", "tflite"] = "onnx"


class Cloud(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The larger model, which a worker runs."""

    file: str
    format: Literal["onnx", "tflite"] = "onnx"
    output: Output = "logits"
    head: Head = "softmax"
    output_name: str | None = None


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gate stands and how that was found.

    The policy gates on ``score`` at ``total``; ``epistemic`` and ``aleatoric`` (both
    normalised) split what lies above it. ``fusion`` is on only where the calibration rows
    showed a gain, which ``fusion_gain`` states (accuracy, fused less cloud alone).
    ``method`` says how the thresholds were found, ``rows`` on how many rows and
    ``data_sha256`` on which (see `dataset.digest`).
    """

    score: Score
    total: float
    epistemic: float | None = None
    aleatoric: float | None = None
    fusion: bool = False
    fusion_gain: float | None = None
    neither: Literal["cloud", "edge"] = "cloud"
    method: str
    rows: Positive
    data_sha256: Sha256


class Training(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the models come from.

    ``seen`` is a .npy of the sorted 64-bit row digests (`dataset.row_digests`) of every
    row that training or calibration saw, so that no one measures on them by mistake.
    """

    recipe: str
    seed: int
    data_sha256: Sha256
    seen: str


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bundle's `manifest.toml`."""

    format: int
    name: Name
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.+-]{1,32}$")]
    task: Literal["classification"]
    labels: Annotated[tuple[str, ...], Meta(min_length=2)]
    licence: str
    citations: tuple[str, ...] = ()
    input: Input
    edge: tuple[Edge, ...] = ()
    choice: tuple[Choice, ...] = ()
    filter: tuple[Filter, ...] = ()
    cloud: Cloud | None = None
    calibration: Calibration | None = None
    training: Training | None = None
    files: dict[str, Sha256]
