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
Score = Literal["vacuity", "max_prob", "entropy", "margin", "p_norm", "temperature", "router"]
DType = Literal["uint8", "int8", "int16", "int32", "float16", "float32"]
Fit = Literal["stretch", "crop", "letterbox"]
Resize = Literal["bilinear", "bicubic", "lanczos", "box", "nearest", "linear"]
Hz = Annotated[float, Meta(gt=0, le=1e6)]
PerHour = Annotated[float, Meta(ge=1, le=1e12)]


class ImageInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a picture becomes a sample: colour, then fit and resize, then the layout.

    The sample is uint8; ``layout`` of the `Input` is "HWC" (None, too), "CHW" or "HW", and its
    shape goes with it. ``fit`` brings other proportions to the sample's: "stretch" does not
    keep them, "crop" takes the middle, "letterbox" adds borders of the grey value ``pad``.

    ``resize`` names the training pipeline's: "bilinear", "bicubic", "lanczos", "box" and
    "nearest" are Pillow's (antialiased when made smaller, as torchvision resizes a PIL image);
    "linear" interpolates between the four nearest pixels without antialiasing (half-pixel
    centres: OpenCV's INTER_LINEAR, `torch.nn.functional.interpolate` with align_corners=False).
    """

    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    fit: Fit = "stretch"
    resize: Resize = "bilinear"
    pad: Annotated[int, Meta(ge=0, le=255)] = 114


class AudioInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How sound becomes a sample: one window of mono samples, resampled, then its features.

    ``samples`` at ``sample_rate_hz`` are one window; the next begins ``hop`` samples later
    (None: as many, so that windows do not overlap). Samples are float32 in [-1, 1), that is
    int16 / 32768. ``resample`` is how another rate becomes this one: "polyphase" is
    `scipy.signal.resample_poly` with its default window, "soxr" the SoX resampler's HQ setting.
    ``gain`` then divides the window by its greatest sample ("max"), or by its greatest magnitude
    ("peak"); one that has none above 0 stays as it is.

    ``features`` "none" leaves the window as it is, shape (samples,). "logmel" gives
    (frames, mels), "mfcc" (frames, coefficients); both need ``frame``, ``frame_hop``, ``fft``
    and ``mels``. Frames of ``frame`` samples every ``frame_hop``, in ``window`` (periodic, as of
    `scipy.signal.get_window`), are filled up with zeros to ``fft``: behind them, and the first
    begins at 0, or, with ``align`` "middle", on both sides, and the first lies in the middle of
    the samples from 0 to ``fft``, as in `torch.stft`. ``center`` aligns the frames so and pads
    the sound, too, by ``pad``, so that frame t has its middle at t * frame_hop ("reflect" as in
    `torch.stft`, "zero" as in librosa since 0.10).

    Power to the ``power`` (2: energy, 1: magnitude) goes through ``mels`` triangles between
    ``low_hz`` and ``high_hz`` (None: half the rate), evenly spaced on the ``mel_scale``, whose
    sides are straight over Hz or over mel (``mel_slope``: librosa and torchaudio "hz",
    TensorFlow and HTK "mel"), of area 1 where ``mel_norm`` is "slaney". ``log`` is of
    max(x, floor) or, where ``floor_by`` is "sum", of x + floor: "ln", "log10", or "db"
    (10 log10). Where ``log_range`` stands, nothing is further below the window's greatest value
    (librosa's ``top_db``). The coefficients are the first of a DCT-II, orthonormal or, with
    ``dct`` "htk", with a first one sqrt(2) times as large, as HTK and TensorFlow have it.

    A float sample holds these numbers. An integer one stands for ``(x - offset) * scale``, as the
    `Input` says, so each number is stored as the nearest such x that the dtype has. With the
    `Input`'s layout "FT" the axes are (mels, frames), with "TF" (None, too) as above; extents of
    1 may be anywhere in its shape.
    """

    sample_rate_hz: Hz
    samples: Positive
    hop: Positive | None = None
    resample: Literal["polyphase", "soxr"] = "polyphase"
    gain: Literal["none", "max", "peak"] = "none"
    features: Literal["none", "logmel", "mfcc"] = "none"
    frame: Positive | None = None
    frame_hop: Positive | None = None
    fft: Positive | None = None
    window: Literal["hann", "hamming", "boxcar"] = "hann"
    align: Literal["start", "middle"] = "start"
    center: bool = False
    pad: Literal["reflect", "zero"] = "reflect"
    power: Literal[1, 2] = 2
    mels: Positive | None = None
    low_hz: Annotated[float, Meta(ge=0)] = 0.0
    high_hz: Hz | None = None
    mel_scale: Literal["slaney", "htk"] = "slaney"
    mel_slope: Literal["hz", "mel"] = "hz"
    mel_norm: Literal["slaney", "none"] = "slaney"
    log: Literal["ln", "log10", "db"] = "ln"
    floor: Annotated[float, Meta(gt=0)] = 1e-10
    floor_by: Literal["max", "sum"] = "max"
    log_range: Annotated[float, Meta(gt=0)] | None = None
    coefficients: Positive | None = None
    dct: Literal["ortho", "htk"] = "ortho"


class TensorInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a stream of rows becomes samples: windows of rows, each channel scaled.

    A window is ``rows`` rows of all ``channels``; the next begins ``hop`` rows later (None:
    as many). A row's value of channel c becomes ``(value - offset[c]) * scale[c]`` in float32.
    With the `Input`'s layout "CT" the sample is (channels, rows), with "TC" (None, too)
    (rows, channels); where ``rows`` is 1 it may be (channels,).
    """

    channels: tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...]
    rows: Positive = 1
    hop: Positive | None = None
    rate_hz: Hz | None = None
    scale: tuple[float, ...] | None = None
    offset: tuple[float, ...] | None = None


class TextInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a line of text becomes a sample: the tokenizer's ids, cut or padded to the shape.

    The `Input`'s ``tokenizer`` is a file of the bundle in the `tokenizers` library's own JSON;
    the sample is int32 (tokens,). ``special`` adds the tokens that its post-processor does.
    """

    pad_id: Annotated[int, Meta(ge=0)] = 0
    special: bool = True
    max_chars: Positive = 10_000


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one sample is, as a source gives it and as it travels over the wire.

    ``shape`` is that of one sample, without the batch axis. Where ``scale`` or ``offset``
    stand, the graph is fed float32 ``(x - offset) * scale``; else the sample as it is. For an
    image both may have a value for each channel.

    The table named as ``kind`` says how what a live source captures becomes a sample (see
    `inputs.preprocess`); without it only samples can come, as from a replay.
    """

    kind: Literal["tensor", "image", "audio", "text"]
    shape: tuple[Positive, ...]
    dtype: DType
    layout: str | None = None
    scale: float | tuple[float, ...] | None = None
    offset: float | tuple[float, ...] | None = None
    tokenizer: str | None = None
    image: ImageInput | None = None
    audio: AudioInput | None = None
    tensor: TensorInput | None = None
    text: TextInput | None = None


class Quantised(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a variant was made int8: from which variant, by what, with ranges from which rows.

    ``rows`` is how many, ``data_sha256`` which (see `dataset.digest`).
    """

    variant: Name
    method: Annotated[str, Meta(pattern=r"^[ -~]{1,200}\Z")]
    rows: Positive
    data_sha256: Sha256


class EvidenceHead(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Evidence for a softmax classifier that has none, learnt after it: alpha = 1 + (S - K) q.

    q is its softmax at ``temperature``, so the argmax is kept; S, its strength, is what
    `evidence_head` computes of q by ``weights`` and ``bias``. An ONNX graph holds this head itself;
    the table is for graphs to which nothing can be appended. ``data_sha256`` is of the rows that
    taught it.
    """

    weights: tuple[float, ...]
    bias: float
    temperature: Annotated[float, Meta(gt=0)] = 1.0
    data_sha256: Sha256


class Edge(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One variant of the small model.

    ``output_name`` is the graph's output that holds the (B, K); None: its first. ``state`` is
    for graphs that keep one (TFLite's recurrent nets): "kept" (None, too) from sample to sample,
    as for the windows of one stream, or "reset" before each, where none follows another.
    ``attach`` "feature": it takes what the bundle's [split] gives on the device, as float32.
    """

    name: Name
    file: str
    attach: Literal["input", "feature"] = "input"
    format: Literal["onnx", "tflite"] = "onnx"
    output: Output = "logits"
    head: Head = "softmax"
    precision: Literal["float", "int8"] = "float"
    output_name: str | None = None
    state: State | None = None
    quantised: Quantised | None = None
    evidence: EvidenceHead | None = None


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


class Reuse(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a reuse filter answers from what was answered before (PAPERS: InFi, H-KNN).

    Of the ``neighbours`` nearest keys, by the sum of absolute differences, the share of the
    majority's label must be at least ``share``, and their mean distance at most ``distance``.
    Keys are (``width``,) float32; they are forgotten after ``ttl_s`` (None: never), and the
    least used ones where they take more than ``capacity_bytes``.
    """

    width: Annotated[int, Meta(ge=1, le=4096)]
    distance: Annotated[float, Meta(ge=0)]
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0
    neighbours: Annotated[int, Meta(ge=1, le=64)] = 5
    ttl_s: Annotated[float, Meta(gt=0)] | None = None
    capacity_bytes: Annotated[int, Meta(ge=1 << 12, le=1 << 28)] = 1 << 20


class Tuned(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a filter's operating point was put, by which rows, and what it is worth there.

    ``aim`` is what was asked for: "recall", the share of what matters that is kept, held with
    ``confidence``; or "accuracy" in the thesis' sense, the share of samples whose result is the
    model's own or was redundant. ``rate`` of the samples are filtered, ``optimum`` at most could
    be ((1 - A) + r_N at the accuracy A that is reached). ``data_sha256`` names the ``rows``.
    """

    aim: Literal["recall", "accuracy"]
    target: Annotated[float, Meta(gt=0, le=1)]
    confidence: Annotated[float, Meta(gt=0, lt=1)] | None = None
    recall: Annotated[float, Meta(ge=0, le=1)]
    accuracy: Annotated[float, Meta(ge=0, le=1)]
    rate: Annotated[float, Meta(ge=0, le=1)]
    optimum: Annotated[float, Meta(ge=0, le=1)]
    rows: Positive
    data_sha256: Sha256


class Filter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A learned input filter.

    A skip filter gives one logit per sample and task, (B, T): the sample is dropped where the
    sigmoid of all is at most ``threshold``, or each at most its own of ``thresholds`` (T,). A reuse
    filter gives keys, (B, width): where what is known of the nearest ones (``reuse``) suffices,
    the model is not asked.

    ``rule`` says what cannot matter (`models.filtering.rules`), by which the filter was taught
    and is judged, of several tasks all of theirs; ``redundant`` names the labels that matter to
    no task, where the rules are of labels. ``attach`` "feature": it
    takes what the bundle's [split] gives on the device, as float32.
    """

    kind: Literal["skip", "reuse"]
    file: str
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    thresholds: Annotated[tuple[Annotated[float, Meta(ge=0, le=1)], ...], Meta(max_length=16)] = ()
    redundant: tuple[str, ...] = ()
    rule: Annotated[str, Meta(max_length=256)] | None = None
    attach: Literal["input", "feature"] = "input"
    format: Literal["onnx", "tflite"] = "onnx"
    reuse: Reuse | None = None
    tuned: Tuned | None = None


class Cloud(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The larger model, which a worker runs."""

    file: str
    format: Literal["onnx", "tflite"] = "onnx"
    output: Output = "logits"
    head: Head = "softmax"
    output_name: str | None = None
    evidence: EvidenceHead | None = None


class Split(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model in two halves, so that features leave the device in place of samples.

    The device runs ``file`` on what its edge model is fed, (B, *input shape) to (B, width), and
    sends that as ``dtype``; ``cloud`` answers from it: a graph of float32, (B, width) to (B, K).
    ``shape`` is what the features were before they were laid flat, where that is a map of several
    axes, channels first; what learns from them can look at it as such.
    """

    file: str
    format: Literal["onnx", "tflite"] = "onnx"
    output_name: str | None = None
    width: Positive
    shape: Annotated[tuple[Positive, ...], Meta(max_length=8)] = ()
    dtype: Literal["float16", "float32"] = "float16"
    cloud: Cloud

    @property
    def features(self) -> Input:
        """What the far end takes in place of a sample."""
        return Input(kind="tensor", shape=(self.width,), dtype=self.dtype, scale=1.0)


class Router(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A logistic router on the edge's own outputs: how probably the edge is wrong.

    The score is the logistic function of bias + weights · features, which are those of
    `scores.router_features`.
    """

    weights: tuple[float, ...]
    bias: float


class Scoring(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A gating score with what it needs: ``temperature`` that of "temperature", ``router``."""

    score: Score
    temperature: Annotated[float, Meta(gt=0)] | None = None
    router: Router | None = None


class Candidate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a score achieved on the calibration rows, chosen or not.

    ``area`` is the mean accuracy of edge and cloud over the escalated shares that count,
    ``augrc`` that of the edge alone; ``recovered`` the gap recovered at the target rate.
    """

    score: Score
    area: float
    augrc: float
    recovered: float | None = None


class Promise(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is promised of the answers that the edge gives alone.

    They are right in at least the share ``accuracy``, held with ``confidence``. ``by`` "row": for
    rows like those of calibration, guaranteed by a finite-sample test on ``rows`` accepted rows;
    "group": for new groups, empirical, from ``groups`` of them. ``coverage`` is the share of the
    calibration rows that the edge answers alone.
    """

    accuracy: Annotated[float, Meta(gt=0, lt=1)]
    confidence: Annotated[float, Meta(gt=0, lt=1)]
    by: Literal["row", "group"]
    coverage: float
    rows: Positive
    groups: Positive | None = None


class Budget(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much may be escalated in any hour; a device holds to it online.

    Messages or bytes, not both: one gate cannot stand in two places.
    """

    messages_per_hour: PerHour | None = None
    bytes_per_hour: PerHour | None = None


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the gate stands and how that was found.

    The policy gates on ``score`` at ``total``; ``epistemic`` and ``aleatoric`` (both
    normalised) split what lies above it. ``fusion`` is on only where the calibration rows
    showed a gain, which ``fusion_gain`` states (accuracy, fused less cloud alone).
    ``method`` says how the thresholds were found, ``rows`` on how many rows and
    ``data_sha256`` on which (see `dataset.digest`). ``temperature`` and ``router`` are what
    scores of these names need: the one that gates, or another that it was held against.
    ``candidates`` are the scores that were compared, ``reference`` the quantiles of the chosen
    one on the calibration rows at 1/20, 2/20 … 19/20, from which drift is told.
    """

    score: Score
    total: float
    temperature: Annotated[float, Meta(gt=0)] | None = None
    router: Router | None = None
    epistemic: float | None = None
    aleatoric: float | None = None
    fusion: bool = False
    fusion_gain: float | None = None
    neither: Literal["cloud", "edge"] = "cloud"
    promise: Promise | None = None
    budget: Budget | None = None
    reference: tuple[float, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    method: str
    rows: Positive
    data_sha256: Sha256

    @property
    def scoring(self) -> Scoring:
        """The score that gates, with what it needs."""
        return Scoring(score=self.score, temperature=self.temperature, router=self.router)


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
    split: Split | None = None
    calibration: Calibration | None = None
    training: Training | None = None
    files: dict[str, Sha256]

    def taken_by(self, part: Edge | Filter) -> Input:
        """Return what an edge model or a filter takes: samples, or the features of the split."""
        split = self.split if part.attach == "feature" else None
        return self.input if split is None else split.features
