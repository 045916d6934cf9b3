"""Stage 3 of an ensemble: normalised members become one graph, which must answer what the rule makes of their answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fleet_protocol.imaging import preprocess
from fleet_protocol.manifest import Preprocessing
from fleet_protocol.tasks import Postprocessing
from model_compiler import graph, images
from model_compiler.errors import ParityBroken, UnsupportedModel
from model_compiler.graph import Combination
from model_compiler.images import Image
from model_compiler.onnx_session import OnnxSession
from model_compiler.stages import normalise
from model_compiler.stages.normalise import FloatModel
from model_compiler.stages.parity import IMAGES, TOLERANCE

if TYPE_CHECKING:
    from numpy.typing import NDArray


def joined(
    members: Sequence[FloatModel],
    rule: Combination,
    wanted: Preprocessing,
    task: Postprocessing,
    pictures: Sequence[Image],
) -> FloatModel:
    """One model of ``members``; raises UnsupportedModel where they cannot be joined, ParityBroken where the whole is wrong."""
    import onnx

    combined = graph.combine([each.content for each in members], rule)
    try:
        onnx.checker.check_model(combined)
    except onnx.checker.ValidationError as error:
        raise UnsupportedModel("the ensemble's models do not fit together; export them with the same opset") from error
    whole = normalise.normalise(combined, wanted, task, Path("the ensemble"))
    tensors = (preprocess(images.decode(each), wanted) for each in images.sample(pictures, IMAGES))
    check(whole.content, [each.content for each in members], rule, tensors)
    return whole


def check(whole: bytes, members: Sequence[bytes], rule: Combination, tensors: Iterable[NDArray[Any]]) -> None:
    """Raise ParityBroken where ``whole`` does not answer what ``rule`` makes of the answers of ``members``."""
    session, sessions = OnnxSession(whole), [OnnxSession(each) for each in members]
    for tensor in tensors:
        expected = answer([each.run([tensor])[0] for each in sessions], rule)
        if not float(abs(session.run([tensor])[0] - expected).max()) <= TOLERANCE:
            raise ParityBroken(
                f"the joined models do not answer as the rule {rule.rule!r} says; compile them one by one"
            )


def answer(scores: Sequence[NDArray[Any]], rule: Combination) -> NDArray[Any]:
    """What ``rule`` makes of the members' scores, each (1, classes): computed here a second way, to compare with the graph."""
    import numpy as np

    confidences = [_confidence(each.astype(np.float64), rule) for each in scores]
    mean: NDArray[Any] = np.mean(confidences, axis=0)
    if rule.rule == "average":
        return mean
    if rule.rule == "cascade":
        return confidences[0] if confidences[0].max() >= rule.threshold else confidences[1]
    voices = [np.eye(each.shape[1])[each.argmax(axis=1)] for each in confidences]
    return np.asarray(np.mean(voices, axis=0) + mean / graph.TIE)


def share_asked(content: bytes, pictures: Sequence[Image], wanted: Preprocessing) -> float | None:
    """On which share of ``pictures`` a cascade asks its second model (0..1); None where ``content`` is no cascade."""
    tapped = graph.asked(content) if graph.MARK in content else None
    if tapped is None:
        return None
    session = OnnxSession(tapped)
    asked = [bool(session.run([preprocess(images.decode(each), wanted)])[-1].any()) for each in pictures]
    return round(sum(asked) / len(asked), 6)


def _confidence(scores: NDArray[Any], rule: Combination) -> NDArray[Any]:
    import numpy as np

    if rule.activation == "softmax":
        raised = np.exp(scores - scores.max())
        return np.asarray(raised / raised.sum())
    return np.asarray(1 / (1 + np.exp(-scores))) if rule.activation == "sigmoid" else scores
