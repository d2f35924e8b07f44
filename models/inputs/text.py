"""From a line of text to the ids of its tokens, by a tokenizer of the `tokenizers` library."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, DataError, MissingExtraError
from ..manifest import Input, TextInput
from .preprocess import Preprocess

MAX_TOKENIZER_BYTES = 1 << 26  # the largest in use have a third of that


def text_preprocessor(spec: Input, *, read: Callable[[str], bytes], where: str) -> Preprocess:
    """Return what makes a sample, int32 (tokens,), of the UTF-8 bytes (n,) uint8 of a text.

    Only the first ``max_chars`` characters are looked at. What the text has more tokens than the
    sample is cut off at its end, before the special tokens are put around it; what it has fewer
    is filled with ``pad_id``. What the file says of cutting and padding does not count. It all
    happens in the calling thread: the library starts others for batches only.

    Raises:
        BundleError: the file is no tokenizer, or the sample has no room for its special tokens.
        MissingExtraError: `tokenizers` is not installed.
    """
    how = spec.text or TextInput()
    tokens = spec.shape[0]
    tokenizer = _opened(spec, how, read=read, where=where)

    def preprocess(data: NDArray[Any], meta: Mapping[str, Any]) -> NDArray[Any]:  # noqa: ARG001
        text = _text(data, where=where)[: how.max_chars]
        ids = tokenizer.encode(text, add_special_tokens=how.special).ids
        sample = np.full(tokens, how.pad_id, np.int32)
        sample[: len(ids)] = ids
        return sample

    return preprocess


def text_problems(spec: Input) -> Iterator[tuple[str, str]]:
    """Yield why texts cannot become samples: the manifest's key, and what is wrong there."""
    if spec.text is None:
        return
    if spec.tokenizer is None:
        yield "$.input.tokenizer", "missing: it names the tokenizer's file in the bundle"
    if len(spec.shape) != 1:
        yield "$.input.shape", f"{spec.shape}, but a text is (tokens,)"
    if spec.dtype != "int32":
        yield "$.input.dtype", f"{spec.dtype}, but tokens are int32"


def _opened(spec: Input, how: TextInput, *, read: Callable[[str], bytes], where: str) -> Any:  # noqa: ANN401 -- an extra's
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("tokenizers", extra="text") from error
    if spec.tokenizer is None:
        raise BundleError("no tokenizer", where=f"{where}: $.input.tokenizer")
    file = f"{where}/{spec.tokenizer}"
    content = read(spec.tokenizer)
    if len(content) > MAX_TOKENIZER_BYTES:
        raise BundleError(f"{len(content)} bytes are too many for a tokenizer", where=file)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # the library names none of its own
        raise BundleError(
            f"no tokenizer: {error}",
            where=file,
            hint="save one as tokenizer.json by the tokenizers library",
        ) from error
    around = tokenizer.num_special_tokens_to_add(is_pair=False) if how.special else 0
    if around >= spec.shape[0]:
        raise BundleError(
            f"a sample of {spec.shape[0]} tokens has no room beside {around} special ones",
            where=f"{where}: $.input.shape",
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length=spec.shape[0])
    return tokenizer


def _text(data: NDArray[Any], *, where: str) -> str:
    if data.dtype != np.uint8 or data.ndim != 1:
        raise DataError(f"{data.dtype} {data.shape} is no text", where=where)
    try:
        return data.tobytes().decode()
    except UnicodeDecodeError as error:
        raise DataError(f"byte {error.start} of the text is not UTF-8", where=where) from error
