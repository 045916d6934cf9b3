"""Why another tool refused a model, said with the model's own words: the operator and the layer."""

from __future__ import annotations

import re
from typing import Final

from model_compiler.errors import UnsupportedModel

_WORD: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*")
_MAX_CHARACTERS: Final = 300


def refusal(tool: str, model: bytes, said: str) -> UnsupportedModel:
    """An error for what ``tool`` ``said`` about the ONNX ``model``: it names the first layer whose operator was mentioned."""
    import onnx

    words = {word.lower() for word in _WORD.findall(said.replace("_", " "))}
    for node in onnx.load_from_string(model).graph.node:
        if node.op_type.lower() in words:
            return UnsupportedModel(
                f"{tool} cannot take the operator {node.op_type} (layer {node.name or node.output[0]!r}); "
                "replace it in the model, or leave this runtime's boards out of the recipe"
            )
    return UnsupportedModel(f"{tool} cannot take the model: {telling_line(said)}")


def telling_line(said: str) -> str:
    """The last line that speaks of an error, else the last of all, cut to 300 characters."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines
    return errors[-1][:_MAX_CHARACTERS] if errors else "it gave no reason"
