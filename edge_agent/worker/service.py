"""Answers the agent's requests one at a time until the socket closes.

What the model or its file got wrong is an answer; a mistake of our own ends the process, which the agent sees and survives.
"""

from __future__ import annotations

import contextlib
import socket

from edge_agent.runtimes import InferenceFailed
from edge_agent.worker.frames import FrameReader
from edge_agent.worker.model import LoadedModel
from edge_agent.worker.wire import Answer, Channel, FrameFailed, Infer, Load, Loaded, Prove, Refused, Request
from fleet_protocol.errors import FleetError


class Worker:
    """Turns requests into answers; holds at most one model."""

    def __init__(self, frames: FrameReader) -> None:
        self._frames = frames
        self._model: LoadedModel | None = None

    def answer(self, request: Request) -> Answer:
        """The answer to one request; every FleetError becomes one."""
        try:
            if isinstance(request, Load):
                return self._load(request)
            if self._model is None:
                raise RuntimeError("the agent asked a worker before it loaded a model")
            return self._model.prove() if isinstance(request, Prove) else self._infer(self._model, request)
        except FleetError as error:
            return Refused(error.code, str(error))

    def _load(self, request: Load) -> Loaded:
        self._model = LoadedModel.load(request)
        return Loaded()

    def _infer(self, model: LoadedModel, request: Infer) -> Answer:
        try:
            return model.infer(self._frames.read(request.height, request.width))
        except (InferenceFailed, FleetError) as error:
            return FrameFailed(str(error))


def _single_threaded_imaging() -> None:
    # The board's profile gives the threads to the runtime; a second pool beside it would only take turns with it.
    import cv2

    cv2.setNumThreads(1)


def serve(end: socket.socket, frames_fd: int) -> None:
    """Answer until the agent closes the socket or dies."""
    _single_threaded_imaging()
    channel: Channel[Request] = Channel(end, Request)
    worker = Worker(FrameReader(frames_fd))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            channel.send(worker.answer(channel.receive(None)), None)
