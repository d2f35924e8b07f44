"""A manifest whose input contradicts itself is refused, by its key."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from hedge.models.consistency import check_manifest
from hedge.models.errors import BundleError
from hedge.models.inputs.problems import input_problems
from hedge.models.manifest import Input, Manifest

_SOUND: dict[str, dict[str, Any]] = {
    "image": {"kind": "image", "shape": (96, 64, 3), "dtype": "uint8", "image": {}},
    "chw": {
        "kind": "image",
        "shape": (3, 96, 64),
        "layout": "CHW",
        "dtype": "uint8",
        "scale": (0.1, 0.2, 0.3),
        "offset": (1.0, 2.0, 3.0),
        "image": {},
    },
    "grey": {
        "kind": "image",
        "shape": (28, 28),
        "layout": "HW",
        "dtype": "uint8",
        "image": {"colour": "grey"},
    },
    "tensor": {
        "kind": "tensor",
        "shape": (128, 3),
        "dtype": "float16",
        "tensor": {"channels": ("x", "y", "z"), "rows": 128, "hop": 64, "scale": (1.0, 2.0, 0.1)},
    },
    "across": {
        "kind": "tensor",
        "shape": (2, 5),
        "layout": "CT",
        "dtype": "float32",
        "tensor": {"channels": ("x", "y"), "rows": 5},
    },
    "one row": {
        "kind": "tensor",
        "shape": (2,),
        "dtype": "float32",
        "tensor": {"channels": ("x", "y")},
    },
    "text": {
        "kind": "text",
        "shape": (64,),
        "dtype": "int32",
        "tokenizer": "tokenizer.json",
        "text": {},
    },
    "bare": {"kind": "image", "shape": (5,), "dtype": "float32", "layout": "whatever"},
}

_FILES = dict.fromkeys(("edge.onnx", "skip.onnx", "cloud.onnx", "seen.npy"), "0" * 64)


def found(base: str, **changes: Any) -> list[tuple[str, str]]:  # noqa: ANN401
    """Return what is wrong with a sound input once some of its keys are changed."""
    return list(input_problems(msgspec.convert(_SOUND[base] | changes, Input)))


@pytest.mark.parametrize("base", _SOUND)
def test_an_input_that_agrees_with_itself_is_sound(base: str) -> None:
    assert not found(base)


@pytest.mark.parametrize(
    ("base", "changes", "key", "what"),
    [
        ("image", {"tensor": {"channels": ("x",)}}, "tensor", "the input's kind is 'image'"),
        ("image", {"dtype": "float32"}, "dtype", "pictures are uint8"),
        ("image", {"shape": (96, 64)}, "shape", "2 axes are none of the layout HWC"),
        ("image", {"shape": (3, 96, 64)}, "shape", "64 channels, but 'rgb' has 3"),
        ("image", {"layout": "NCHW"}, "layout", "'NCHW' is none of HWC, CHW and HW"),
        ("image", {"image": {"colour": "grey"}}, "shape", "3 channels, but 'grey' has 1"),
        ("grey", {"image": {"colour": "bgr"}}, "shape", "1 channels, but 'bgr' has 3"),
        ("chw", {"scale": (0.1, 0.2)}, "scale", "2 numbers for 3 channels"),
        ("chw", {"scale": (0.1, 0.0, 0.2)}, "scale", "0 would make all samples the same"),
        ("chw", {"offset": (0.1, float("nan"), 1.0)}, "offset", "nan is not finite"),
        ("chw", {"offset": (1.0,) * 64}, "offset", "64 numbers for 3 channels"),
        ("grey", {"scale": (0.1,)}, "scale", "only an image of 3 axes"),
        ("tensor", {"scale": (1.0, 1.0, 1.0)}, "scale", "only an image"),
        ("tensor", {"scale": float("inf")}, "scale", "inf is not finite"),
        ("tensor", {"shape": (3, 128)}, "shape", "(3, 128), but rows and channels make (128, 3)"),
        ("tensor", {"layout": "CT"}, "shape", "make (3, 128)"),
        ("tensor", {"layout": "HWC"}, "layout", "neither TC nor CT"),
        ("one row", {"tensor": {"channels": ("x", "x")}}, "tensor.channels", "one name twice"),
        ("one row", {"tensor": {"channels": ()}}, "tensor.channels", "has none"),
        (
            "one row",
            {"tensor": {"channels": ("x", "y"), "scale": (1.0,)}},
            "tensor.scale",
            "1 numbers for 2 channels",
        ),
        (
            "one row",
            {"tensor": {"channels": ("x", "y"), "scale": (1.0, 0.0)}},
            "tensor.scale",
            "no scale 0",
        ),
        (
            "one row",
            {"tensor": {"channels": ("x", "y"), "offset": (1.0, float("inf"))}},
            "tensor.offset",
            "has to be finite",
        ),
        ("text", {"dtype": "float32"}, "dtype", "tokens are int32"),
        ("text", {"shape": (64, 2)}, "shape", "a text is (tokens,)"),
        ("text", {"tokenizer": None}, "tokenizer", "missing"),
    ],
)
def test_what_contradicts_itself_is_named_by_its_key(
    base: str, changes: dict[str, Any], key: str, what: str
) -> None:
    problems = found(base, **changes)
    assert any(one == f"$.input.{key}" and what in text for one, text in problems), problems


def test_the_manifest_as_a_whole_is_refused_for_it(manifest: Manifest) -> None:
    wrong = msgspec.convert(_SOUND["tensor"] | {"shape": (4,)}, Input)
    with pytest.raises(BundleError, match=re.escape("m: $.input.shape: (4,), but rows")):
        check_manifest(msgspec.structs.replace(manifest, input=wrong, files=_FILES), where="m")


def test_a_tokenizer_that_is_not_among_the_files_is_refused(manifest: Manifest) -> None:
    text = msgspec.convert(_SOUND["text"], Input)
    wrong = msgspec.structs.replace(manifest, input=text, files=_FILES)
    with pytest.raises(BundleError, match=r"\$\.input\.tokenizer: 'tokenizer\.json' is not listed"):
        check_manifest(wrong, where="m")
