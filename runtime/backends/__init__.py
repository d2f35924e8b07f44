"""The libraries that run models, each behind the `Model` protocol, imported on first use."""

from __future__ import annotations

from importlib.util import find_spec

from ...models.bundle import Bundle
from ...models.errors import ConfigError, MissingExtraError, ModelError
from ...models.manifest import Cloud, Edge, Filter
from ...models.model import Model
from .dense import dense_model
from .options import BackendOptions

_NEEDS = {"auto": None, "onnx": "onnx", "tflite": "tflite", "tensorrt": "onnx"}


def is_installed(format: str) -> bool:  # noqa: A002  the manifest's own word
    """Tell whether this machine can open models of ``format``."""
    libraries = {"onnx": ("onnxruntime",), "tflite": ("ai_edge_litert", "tflite_runtime")}
    return any(find_spec(library) is not None for library in libraries.get(format, ()))


def open_model(
    data: bytes,
    *,
    format: str,  # noqa: A002  the manifest's own word
    where: str,
    options: BackendOptions | None = None,
    output: str | None = None,
    keeps_state: bool = True,
) -> Model:
    """Open a model file's ``data`` with the library for its ``format``.

    ``where`` names the file in messages; ``output`` names the output that holds the
    (B, K), the first if None. A recurrent net whose file keeps a state from one call to the
    next starts anew with each sample unless ``keeps_state``. A graph that may not run (see
    `onnx_graph.check_graph` and `tflite_graph.check_tflite`) is refused here too.

    Raises:
        ModelError: no backend for the format, or the library refuses the model.
        MissingExtraError: the library is not installed.
        ConfigError: ``options`` ask for what the format or this machine has not.
    """
    options = options or BackendOptions()
    _check(options, format, where=where)
    match format:
        case "onnx":
            if not is_installed(format):
                raise MissingExtraError("onnxruntime", extra="onnx")
            from .onnx import OnnxModel  # noqa: PLC0415  costs 20 MB and 0.2 s: on first use

            return OnnxModel(data, where=where, options=options, output=output)
        case "tflite":
            from .tflite import TfliteModel  # noqa: PLC0415  so does this

            return TfliteModel(
                data, where=where, options=options, output=output, keeps_state=keeps_state
            )
        case _:
            raise ModelError(f"this build has no backend for {format} models", where=where)


def _check(options: BackendOptions, format_: str, *, where: str) -> None:
    """Refuse what is asked for in vain: nothing that was to speed a model up is left out silently.

    Raises:
        ConfigError: which option, and why it would do nothing.
    """
    needs = _NEEDS[options.use]
    if needs not in (None, format_):
        raise ConfigError(
            f"runs {needs} files, and this is a {format_} file: {where}",
            where=f"backend.use = {options.use!r}",
            hint='use = "auto" takes the library that fits',
        )
    asked = {"providers": ("onnx", options.providers), "delegate": ("tflite", options.delegate)}
    for key, (wanted, value) in asked.items():
        if value and format_ != wanted and not options.fallback:
            raise ConfigError(
                f"is for {wanted} files, and this is a {format_} file: {where}",
                where=f"backend.{key}",
                hint="remove it, choose another variant, or let the CPU do it: fallback = true",
            )
    unnamed = sorted(options.provider_options.keys() - set(options.providers))
    if unnamed:
        raise ConfigError("is not among the providers", where=f"provider_options.{unnamed[0]}")
    if options.delegate_options and options.delegate is None:
        raise ConfigError("there is no delegate", where="backend.delegate_options")


def open_part(
    bundle: Bundle, part: Edge | Filter | Cloud, *, options: BackendOptions | None = None
) -> Model:
    """Open one of a bundle's models; see `open_model`.

    Only an edge model may keep a state: what a worker is asked comes from many devices. A filter
    that is a small dense net runs without the library, unless one is asked for by name.
    """
    data, where = bundle.read(part.file), f"{bundle.path}/{part.file}"
    plain = options is None or (options.use == "auto" and not options.providers)
    if isinstance(part, Filter) and part.format == "onnx" and plain:
        found = dense_model(data, where=where)
        if found is not None:
            return found
    return open_model(
        data,
        format=part.format,
        where=where,
        options=options,
        output=None if isinstance(part, Filter) else part.output_name,
        keeps_state=isinstance(part, Edge) and part.state != "reset",
    )
