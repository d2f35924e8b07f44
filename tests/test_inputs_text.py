"""Texts become the ids of their tokens, as the tokenizer's own library makes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, write_bundle
from hedge.models.errors import BundleError, DataError
from hedge.models.inputs.preprocess import Preprocess, preprocessor
from hedge.models.inputs.text import MAX_TOKENIZER_BYTES
from hedge.models.manifest import Edge, Input, Manifest, TextInput
from hedge.models.prepare import preparer
from hedge.models.proposal import ModelFile, Wishes, propose
from hedge.runtime.backends import open_model
from hedge.runtime.bundle_command import verify

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "film", "was", "good", "bad", "!", "ly", "un"]
_PIECES = {word: place for place, word in enumerate([*_WORDS, "##ly", "##ed", "##s"])}


def word_level(*, special: bool = True) -> Any:  # noqa: ANN401
    """Return a tokenizer of whole words: [CLS] … [SEP] around them, "the" is 4, "film" 5."""
    found = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: at for at, word in enumerate(_WORDS)}, "[UNK]")
    )
    found.normalizer = tokenizers.normalizers.Lowercase()
    found.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    if special:
        found.post_processor = tokenizers.processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return found


def word_piece() -> Any:  # noqa: ANN401
    found = tokenizers.Tokenizer(tokenizers.models.WordPiece(_PIECES, unk_token=_WORDS[1]))
    found.normalizer = tokenizers.normalizers.BertNormalizer()
    found.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    found.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return found


def made(tokenizer: Any, *, tokens: int = 8, **how: Any) -> Preprocess:  # noqa: ANN401
    content = tokenizer if isinstance(tokenizer, bytes) else tokenizer.to_str().encode()
    spec = Input(
        kind="text",
        shape=(tokens,),
        dtype="int32",
        tokenizer="tokenizer.json",
        text=TextInput(**how),
    )
    return preprocessor(spec, read={"tokenizer.json": content}.__getitem__, where="film")


def raw(text: str | bytes) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8)


def test_words_become_their_numbers_between_special_tokens() -> None:
    found = made(word_level())(raw("The film was GOOD!"), {})
    assert found.dtype == np.int32
    assert found.tolist() == [2, 4, 5, 6, 7, 9, 3, 0]


def test_pieces_of_words_become_their_numbers() -> None:
    found = made(word_piece(), tokens=10)(raw("films was badly"), {})
    assert found.tolist() == [2, 5, 14, 6, 8, 12, 3, 0, 0, 0]


def test_a_long_text_is_cut_before_its_last_special_token() -> None:
    found = made(word_level(), tokens=5)(raw("good " * 50), {})
    assert found.tolist() == [2, 7, 7, 7, 3]


def test_without_special_tokens_there_are_only_those_of_the_text() -> None:
    found = made(word_level(), tokens=4, special=False)
    assert found(raw("bad film"), {}).tolist() == [8, 5, 0, 0]
    assert found(raw("bad " * 9), {}).tolist() == [8, 8, 8, 8]


def test_padding_is_of_the_id_asked_for_whatever_the_file_says() -> None:
    tokenizer = word_level()
    tokenizer.enable_padding(length=30, pad_id=1)
    tokenizer.enable_truncation(max_length=3)
    found = made(tokenizer, tokens=6, pad_id=11)(raw("the film"), {})
    assert found.tolist() == [2, 4, 5, 3, 11, 11]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "the film was good and unremarkable!!",
        "xyzzy plugh",
        "the 😀 film 👩‍👩‍👧 was 中文 good é",
        "tab\tand\nlines\x00zero",
        "good" * 40,
        "film " * 300,
    ],
)
@pytest.mark.parametrize("make", [word_level, word_piece])
def test_it_is_what_the_library_makes_by_itself(make: Any, text: str) -> None:  # noqa: ANN401
    independent = make()
    independent.enable_truncation(max_length=12)
    independent.enable_padding(length=12, pad_id=0)
    expected = independent.encode(text).ids
    assert made(make(), tokens=12)(raw(text), {}).tolist() == expected


def test_an_empty_text_has_its_special_tokens_only() -> None:
    assert made(word_level())(raw(""), {}).tolist() == [2, 3, 0, 0, 0, 0, 0, 0]


def test_unknown_words_are_unknown() -> None:
    assert made(word_level())(raw("xyzzy 😀"), {}).tolist() == [2, 1, 1, 3, 0, 0, 0, 0]


def test_no_more_characters_are_looked_at_than_allowed() -> None:
    found = made(word_level(), max_chars=9)(raw("the film was good"), {})
    assert found.tolist() == [2, 4, 5, 3, 0, 0, 0, 0], "of 'the film '"
    emoji = made(word_level(), max_chars=3)(raw("😀😀 the"), {})
    assert emoji.tolist() == [2, 1, 3, 0, 0, 0, 0, 0], "characters, not bytes"


def test_a_megabyte_of_text_is_cut() -> None:
    assert made(word_level())(raw("bad " * 250_000), {}).tolist() == [2, 8, 8, 8, 8, 8, 8, 3]


@pytest.mark.parametrize("wrong", [b"caf\xe9", b"\xff\xfe", b"good \xc3", b"\xed\xa0\x80"])
def test_what_is_not_utf_8_is_refused(wrong: bytes) -> None:
    with pytest.raises(DataError, match=r"film: byte \d of the text is not UTF-8"):
        made(word_level())(raw(wrong), {})


def test_what_is_no_text_is_refused() -> None:
    with pytest.raises(DataError, match="is no text"):
        made(word_level())(np.zeros((3, 2), np.float32), {})


@pytest.mark.parametrize(
    "wrong",
    [b"", b"{}", b"\x80\x04.", b"[PAD]\n[UNK]\n", json.dumps({"model": {"type": "None"}}).encode()],
)
def test_a_file_that_is_no_tokenizer_is_refused_by_name(wrong: bytes) -> None:
    with pytest.raises(BundleError, match=r"film/tokenizer\.json: no tokenizer: .*save one as"):
        made(wrong)


def test_a_file_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(BundleError, match="bytes are too many for a tokenizer"):
        made(bytes(MAX_TOKENIZER_BYTES + 1))


def test_a_sample_without_room_beside_the_special_tokens_is_refused() -> None:
    with pytest.raises(BundleError, match="2 tokens has no room beside 2 special ones"):
        made(word_level(), tokens=2)
    assert made(word_level(special=False), tokens=2)(raw("bad film"), {}).tolist() == [8, 5]


def test_the_library_starts_no_threads() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("no /proc here")
    before = {task.name for task in tasks.iterdir()}
    prepare = made(word_piece(), tokens=64)
    for text in ("the film was good " * 500, "bad", ""):
        prepare(raw(text), {})
    assert {task.name for task in tasks.iterdir()} <= before


def _counting(words: int, *, tokens: int) -> bytes:
    """Return a graph of int64 ids (B, tokens) whose logit k is how often the id 7 + k is there."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    table = np.zeros((words, 2), np.float32)
    table[7, 0] = table[8, 1] = 1
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["W", "ids"], ["rows"]),
            helper.make_node("ReduceSum", ["rows", "axis"], ["y"], keepdims=0),
        ],
        "counting",
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["B", tokens])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", 2])],
        [
            numpy_helper.from_array(table, "W"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    opset = helper.make_opsetid("", 17)
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=8).SerializeToString()
    return model


def _bundle(out: Path, tokenizer: bytes) -> Bundle:
    manifest = Manifest(
        format=1,
        name="mood",
        version="1",
        task="classification",
        labels=("good", "bad"),
        licence="Apache-2.0",
        input=Input(kind="text", shape=(8,), dtype="int32", tokenizer="t.json", text=TextInput()),
        edge=(Edge(name="float", file="edge.onnx"),),
        files={},
    )
    files = {"edge.onnx": _counting(len(_WORDS), tokens=8), "t.json": tokenizer}
    return write_bundle(out / "mood", manifest, files)


def test_a_bundle_of_text_is_written_verified_and_feeds_a_graph_of_64_bits(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    bundle = _bundle(tmp_path, word_level().to_str().encode())
    assert verify(bundle.path).models[0].output == (1, 2)
    prepare = preprocessor(bundle.input, read=bundle.read, where="mood")
    model = open_model(bundle.read("edge.onnx"), format="onnx", where="edge.onnx")
    fed = preparer(bundle.input, model.spec.inputs[0])
    samples = np.stack([prepare(raw(text), {}) for text in ("good film, good", "the bad film")])
    assert model.infer(fed(samples)).tolist() == [[2, 0], [0, 1]]
    assert model.infer(fed(samples[1:])).tolist() == [[0, 1]]
    model.close()


def test_a_bundle_whose_tokenizer_is_none_does_not_verify(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"mood/t\.json: no tokenizer"):
        verify(_bundle(tmp_path, b"{}").path)


def test_what_is_proposed_for_a_graph_of_64_bits_are_samples_of_32() -> None:
    model = ModelFile("m", _counting(12, tokens=8))
    found = propose({"": model}, None, Wishes(labels=("good", "bad"), name="mood"))
    assert found.manifest.input.dtype == "int32"
    assert found.manifest.input.scale is None
