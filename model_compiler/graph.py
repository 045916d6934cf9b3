"""Several models as one graph: averaged, voted, or a cascade whose second model runs only where the first is unsure.

A device loads one file and knows nothing of it. While the graph is calibrated, quantized and searched it is a straight line
that computes every member; :func:`lazy` then moves what only the second model needs into a branch, the answers unchanged.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

Rule = Literal["average", "vote", "cascade"]
Activation = Literal["none", "softmax", "sigmoid"]

_CASCADE: Final = "edgefleet.cascade"
MARK: Final = _CASCADE.encode()
"""What every ONNX file of a cascade contains."""
_CONDITION: Final = "edgefleet.unsure"
_OWN: Final = ".unsure"
TIE: Final = 1000.0
"""In a vote, confidences count a thousandth of a voice: they decide ties and nothing else."""


@dataclass(frozen=True, slots=True)
class Combination:
    """How the answers of several classifiers become one. ``threshold``: a cascade trusts its first model from this confidence."""

    rule: Rule
    activation: Activation
    threshold: float = 0.0


def combine(members: Sequence[bytes], wanted: Combination) -> ModelProto:
    """One ONNX graph of normalised ``members`` with equal inputs, static shapes and (1, classes) outputs.

    Its only output are confidences: the activation is inside. All members are computed, also in a cascade.
    """
    import onnx

    models = [_prefixed(content, f"m{number}.") for number, content in enumerate(members)]
    first = models[0]
    taken = onnx.ValueInfoProto()
    taken.CopyFrom(first.graph.input[0])
    taken.name = "image"
    nodes = [node for model in models for node in _members_nodes(model, taken.name)]
    confidences = []
    for number, model in enumerate(models):
        name = f"confidence.{number}"
        nodes.append(_activated(model.graph.output[0].name, name, wanted.activation))
        confidences.append(name)
    classes = first.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    last, constants = _combined(confidences, classes, wanted)
    output = _CASCADE if wanted.rule == "cascade" else "confidence"
    result = onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [1, classes])
    weights = [each for model in models for each in model.graph.initializer]
    graph = onnx.helper.make_graph([*nodes, *last], "ensemble", [taken], [result], [*weights, *constants])
    return onnx.helper.make_model(graph, opset_imports=[_opset(models)], ir_version=first.ir_version)


def lazy(content: bytes) -> bytes:
    """A cascade whose second model is in a branch; every other model as it is."""
    import onnx

    if MARK not in content:
        return content
    model = onnx.load_from_string(content)
    choice = _choice(model.graph)
    if choice is None:
        return content
    makers = {name: node for node in model.graph.node for name in node.output}
    unsure, second, first = choice.input
    always = _needed([unsure, first], makers)
    behind = _needed([second], makers)
    _unshare(
        model.graph, [node for node in model.graph.node if _is_in(node, behind) and not _is_in(node, always)], makers
    )
    behind = _needed([second], makers)
    moved = [node for node in model.graph.node if _is_in(node, behind) and not _is_in(node, always)]
    branch = _branch(model.graph, moved, second)
    other = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", [first], ["sure"])], "sure", [], [_untyped("sure")]
    )
    decided = onnx.helper.make_node("If", [_CONDITION], list(choice.output), then_branch=branch, else_branch=other)
    decided.name = "Cascade"
    scalar = onnx.helper.make_node("Squeeze", [unsure], [_CONDITION])
    kept = [node for node in model.graph.node if not _is_in(node, {id(each) for each in moved}) and node is not choice]
    _replace(model.graph, [*kept, scalar, decided])
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def asked(content: bytes) -> bytes | None:
    """The model with one output more, whether the second model was asked; None where it is no cascade."""
    import onnx

    model = onnx.load_from_string(content)
    decided = next((node for node in model.graph.node if node.op_type == "If" and _CASCADE in node.output), None)
    choice = decided or _choice(model.graph)
    if choice is None:
        return None
    model.graph.output.append(onnx.ValueInfoProto(name=choice.input[0]))
    result: bytes = model.SerializeToString(deterministic=True)
    return result


def _prefixed(content: bytes, prefix: str) -> ModelProto:
    import onnx
    from onnx import compose

    return compose.add_prefix(onnx.load_from_string(content), prefix)


def _members_nodes(model: ModelProto, image: str) -> Iterable[NodeProto]:
    own = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = [image if name == own else name for name in node.input]
        yield node


def _activated(scores: str, name: str, activation: Activation) -> NodeProto:
    from onnx import helper

    if activation == "softmax":
        return helper.make_node("Softmax", [scores], [name], axis=1)
    return helper.make_node("Sigmoid" if activation == "sigmoid" else "Identity", [scores], [name])


def _combined(confidences: list[str], classes: int, wanted: Combination) -> tuple[list[NodeProto], list[object]]:
    # Operators that no quantizer touches: a voice in steps of 1/256 would be worth less.
    if wanted.rule == "average":
        from onnx import helper

        return [helper.make_node("Mean", confidences, ["confidence"])], []
    return _vote(confidences, classes) if wanted.rule == "vote" else _cascade(confidences, wanted.threshold)


def _vote(confidences: list[str], classes: int) -> tuple[list[NodeProto], list[object]]:
    from onnx import TensorProto, helper

    nodes = []
    for number, confidence in enumerate(confidences):
        nodes.append(helper.make_node("ArgMax", [confidence], [f"best.{number}"], axis=1, keepdims=0))
        nodes.append(helper.make_node("OneHot", [f"best.{number}", "classes", "voice"], [f"voice.{number}"], axis=1))
    nodes += [
        helper.make_node("Mean", [f"voice.{number}" for number in range(len(confidences))], ["voices"]),
        helper.make_node("Mean", confidences, ["sure"]),
        helper.make_node("Div", ["sure", "tie"], ["ties"]),
        helper.make_node("Sum", ["voices", "ties"], ["confidence"]),
    ]
    constants = [
        helper.make_tensor("classes", TensorProto.INT64, [1], [classes]),
        helper.make_tensor("voice", TensorProto.FLOAT, [2], [0.0, 1.0]),
        helper.make_tensor("tie", TensorProto.FLOAT, [1], [TIE]),
    ]
    return nodes, constants


def _cascade(confidences: list[str], threshold: float) -> tuple[list[NodeProto], list[object]]:
    from onnx import TensorProto, helper

    first, second = confidences
    nodes = [
        helper.make_node("ReduceMax", [first], ["surest"], keepdims=1),
        helper.make_node("Less", ["surest", "threshold"], ["unsure"]),
        helper.make_node("Where", ["unsure", second, first], [_CASCADE]),
    ]
    return nodes, [helper.make_tensor("threshold", TensorProto.FLOAT, [1, 1], [threshold])]


def _opset(models: Sequence[ModelProto]) -> object:
    from onnx import helper

    return helper.make_opsetid(
        "", max(each.version for model in models for each in model.opset_import if not each.domain)
    )


def _choice(graph: GraphProto) -> NodeProto | None:
    return next((node for node in graph.node if node.op_type == "Where" and _CASCADE in node.output), None)


def _needed(names: Sequence[str], makers: dict[str, NodeProto]) -> set[int]:
    """Identities of the nodes that ``names`` depend on; they hold as long as ``makers`` does."""
    found: set[int] = set()
    waiting = list(names)
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and id(node) not in found:
            found.add(id(node))
            waiting.extend(node.input)
    return found


def _unshare(graph: GraphProto, nodes: Sequence[NodeProto], makers: dict[str, NodeProto]) -> None:
    """Give ``nodes`` a DequantizeLinear of their own where they share one: a runtime fuses it only with what stands beside it."""
    constants = {each.name: each for each in graph.initializer}
    own = {id(node) for node in nodes}
    shared = {name for node in nodes for name in node.input if name in makers and id(makers[name]) not in own}
    for name in sorted(shared):
        if makers[name].op_type != "DequantizeLinear":
            continue
        copy = graph.node.add()
        copy.CopyFrom(makers[name])
        copy.name, copy.output[0] = f"{copy.name}{_OWN}", f"{name}{_OWN}"
        for place, constant in enumerate(copy.input):
            if constant in constants:
                graph.initializer.add().CopyFrom(constants[constant])
                graph.initializer[-1].name = copy.input[place] = f"{constant}{_OWN}"
        makers[copy.output[0]] = copy
        for node in nodes:
            node.input[:] = [copy.output[0] if each == name else each for each in node.input]


def _is_in(node: NodeProto, found: set[int]) -> bool:
    return id(node) in found


def _branch(graph: GraphProto, nodes: Sequence[NodeProto], result: str) -> GraphProto:
    """``nodes`` as a graph of their own, with the weights that only they use: there the runtime may fuse them."""
    from onnx import helper

    moved = {id(each) for each in nodes}
    elsewhere = {name for node in graph.node if id(node) not in moved for name in node.input}
    used = {name for node in nodes for name in node.input}
    own = [each for each in graph.initializer if each.name in used and each.name not in elsewhere]
    return helper.make_graph(_in_order(nodes), "unsure", [], [_untyped(result)], own)


def _in_order(nodes: Sequence[NodeProto]) -> list[NodeProto]:
    """``nodes`` so that every input is made before it is used: quantizers append, and in a branch that is not forgiven."""
    makers = {name: place for place, node in enumerate(nodes) for name in node.output}
    needs = {place: {makers[name] for name in node.input if name in makers} for place, node in enumerate(nodes)}
    return [nodes[place] for place in TopologicalSorter(needs).static_order()]


def _untyped(name: str) -> object:
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _replace(graph: GraphProto, nodes: Sequence[NodeProto]) -> None:
    """Give ``graph`` these nodes, without the weights and shapes that have gone into a branch."""
    copies = [type(node)() for node in nodes]
    for copy, node in zip(copies, nodes, strict=True):
        copy.CopyFrom(node)
    used = {name for node in copies for name in node.input} | {each.name for each in graph.output}
    branches = [attribute.g for node in copies for attribute in node.attribute if attribute.HasField("g")]
    used |= {name for branch in branches for node in branch.node for name in node.input}
    used -= {each.name for branch in branches for each in branch.initializer}
    weights = [each for each in graph.initializer if each.name in used]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(copies)
    graph.initializer.extend(weights)
