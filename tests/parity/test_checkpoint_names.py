"""What a checkpoint's content is taken for, and what is said of one that is none: as values."""

from typing import Any

import pytest
import torch

from warmclip_export.checkpoint import explain, name_tensors

ONE = torch.ones(1)


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"a": ONE, "b": ONE}, ["a", "b"]),
        ({"state_dict": {"a": ONE}, "epoch": 3}, ["a"]),
        ({"model_state_dict": {"a": ONE}}, ["a"]),
        ({"model": {"a": ONE}, "epoch": 3}, ["a"]),
        ({"state_dict": {"model": ONE}}, ["model"]),  # a tensor that is called so
        ({"module.a": ONE, "module.b": ONE}, ["a", "b"]),
        ({"state_dict": {"module.model.a": ONE}}, ["a"]),
        ({"a": ONE, "input_resolution": ONE, "context_length": ONE, "vocab_size": ONE}, ["a"]),
    ],
)
def test_tensors_of_a_checkpoint(content: dict[str, Any], names: list[str]) -> None:
    """They have their bare names, whatever surrounds them."""
    assert list(name_tensors(content)) == names


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([ONE], "no tensors by name, but list"),
        ({}, "no tensors by name, but dict"),
        ({"state_dict": {}}, "no tensors by name, but dict"),
        ({"a": ONE, "b": 1, "c": 2, "d": 3}, "^b, c, d in it are no tensors"),
        ({"b": 1, "c": 2, "d": 3, "e": 4}, "^b, c, d and 1 more in it are no tensors"),
        ({"b": 1, "c": 2, "d": 3, "e": 4, "f": 5}, "^b, c, d and 2 more in it are no tensors"),
    ],
)
def test_content_that_is_no_checkpoint(content: Any, told: str) -> None:
    """It is told what is there instead; of many names three."""
    with pytest.raises(ValueError, match=told):
        name_tensors(content)


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("", "it is empty, or was cut short"),
        (" \n ", "it is empty, or was cut short"),
        ("cut\n  short", "cut short"),
        ("x" * 301, "x" * 300),
        ("weights_only=False, if you trust it", "torch finds no tensors in it"),
    ],
)
def test_why_a_file_cannot_be_read(message: str, told: str) -> None:
    """In one line, and not too long."""
    assert explain(message) == told


def test_code_in_a_file() -> None:
    """It is named, and what to do instead; nobody is told to run it."""
    told = explain("try weights_only=False ... GLOBAL argparse.Namespace was not an allowed global")
    assert told.startswith("it holds argparse.Namespace beside its tensors")
    assert "weights_only" not in told
    assert "torch.jit.load(FILE" in explain("it looks like a TorchScript archive; weights_only")
