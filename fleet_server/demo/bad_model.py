"""Version 2 as an honest author might ship it: right on every picture that he has, and failing on pictures that he never saw.

An exposure correction is looked up by brightness, in a table with an entry for daylight only. On a night frame the look-up leaves
the table and the runtime raises. Accuracy and golden frames are perfect on the author's daylight data; the bake on the device is not.
"""

from __future__ import annotations

from typing import Final

import onnx
from onnx import TensorProto, helper

DARKEST_DAYLIGHT: Final = -0.4
"""Mean of the normalised input below which a frame is dark (daylight frames are above 0)."""


def with_daylight_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the exposure correction added to its first output."""
    graph = model.graph
    source, output = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.output[:] = ["uncorrected" if name == output else name for name in node.output]
        node.input[:] = ["uncorrected" if name == output else name for name in node.input]
    graph.initializer.extend(
        [
            helper.make_tensor("darkest_daylight", TensorProto.FLOAT, [], [DARKEST_DAYLIGHT]),
            helper.make_tensor("correction_table", TensorProto.FLOAT, [1], [0.0]),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [source], ["brightness"], name="exposure_mean", keepdims=0),
            helper.make_node("Less", ["brightness", "darkest_daylight"], ["is_dark"], name="exposure_compare"),
            helper.make_node("Cast", ["is_dark"], ["correction_index"], name="exposure_index", to=TensorProto.INT64),
            helper.make_node("Gather", ["correction_table", "correction_index"], ["correction"], name="exposure_table"),
            helper.make_node("Add", ["uncorrected", "correction"], [output], name="exposure_add"),
        ]
    )
    onnx.checker.check_model(model)
    return model
