"""The model inside a worker: loaded, proved on its golden frames, run on a camera's frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from edge_agent.runtimes import InferenceFailed, Session, runtime_for
from edge_agent.worker.isolation import limit_memory
from edge_agent.worker.opening import open_payload
from edge_agent.worker.reading import read
from edge_agent.worker.wire import Inferred, Load, Proved
from fleet_protocol import golden
from fleet_protocol import manifest as manifests
from fleet_protocol.errors import GoldenFramesDiffer, LatencyOverBudget, MalformedManifest, ModelNotLoadable
from fleet_protocol.imaging import preprocess

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROOF_RUNS: Final = 40
"""Runs over which the latency is measured at least, so that p95 is not the maximum."""
PROOF_LIMIT_S: Final = 10.0
"""A model that is this slow is judged by the runs it made until then."""


class LoadedModel:
    """A model in memory, ready to be proved and served."""

    def __init__(self, manifest: manifests.Manifest, board: str, session: Session, frames: list[golden.Frame]) -> None:
        """``frames``: the golden frames; the first one is run at once, so that the first camera frame meets warm caches.

        Raises ModelNotLoadable where the runtime cannot run even that.
        """
        self._manifest, self._board, self._session, self._frames = manifest, board, session, frames
        try:
            session.run(frames[0][0][0])
        except InferenceFailed as error:
            raise ModelNotLoadable(f"the model loads but does not run: {error}") from error

    @classmethod
    def load(cls, request: Load) -> Self:
        """Open, check, load. Raises ModelNotLoadable or what a malformed manifest raises."""
        manifest = manifests.parse(request.manifest)
        runtime = runtime_for(manifest.runtime.name)
        # After the imports: what the libraries themselves need is not the model's fault, and they fail in odd ways.
        limit_memory(request.memory_mib)
        try:
            opened = open_payload(Path(request.blob), request.key, manifest)
            frames = golden.unpack(opened.golden, manifest.inputs, manifest.outputs, manifest.golden.frames)
            session = runtime.load(opened.model, manifest, request.threads)
        except MemoryError as error:
            raise ModelNotLoadable(
                f"the model needs more than the {request.memory_mib} MiB that the board allows a worker"
            ) from error
        return cls(manifest, request.board, session, frames)

    def prove(self, clock: Callable[[], float] = time.perf_counter) -> Proved:
        """Replay every golden frame and measure (SPEC 8.2). Raises GoldenFramesDiffer, LatencyOverBudget.

        ``clock``: seconds, monotonic.
        """
        worst = golden.compare(
            self._manifest.golden,
            self._manifest.outputs,
            [expected for _, expected in self._frames],
            [[output.copy() for output in self._replay(number)] for number in range(len(self._frames))],
        )
        p95 = percentile_95(self._latencies(clock))
        budget = self._budget()
        if p95 > budget:
            raise LatencyOverBudget(f"p95 is {p95:.2f} ms on this {self._board}, the budget is {budget:g} ms")
        return Proved(len(self._frames), worst, p95)

    def infer(self, pixels: NDArray[np.uint8]) -> Inferred:
        """The answer for one frame (H, W, 3). Raises InferenceFailed; MalformedInput for what is no frame."""
        outputs = self._session.run(preprocess(pixels, self._manifest.preprocessing))
        return read(outputs, self._manifest, pixels.shape[1], pixels.shape[0])

    def _budget(self) -> float:
        budget = self._manifest.golden.latency_budget_ms.get(self._board)
        if budget is None:
            raise MalformedManifest(f"the manifest has no latency budget for {self._board}")
        return budget

    def _replay(self, number: int) -> list[NDArray[Any]]:
        inputs, _ = self._frames[number]
        try:
            return self._session.run(inputs[0])
        except InferenceFailed as error:
            raise GoldenFramesDiffer(f"frame {number}: this device cannot run it: {error}") from error

    def _latencies(self, clock: Callable[[], float]) -> list[float]:
        """Milliseconds of each run: the golden frames in turn until there are enough, or the time is over."""
        began = clock()
        taken: list[float] = []
        while len(taken) < PROOF_RUNS and clock() - began < PROOF_LIMIT_S:
            start = clock()
            self._replay(len(taken) % len(self._frames))
            taken.append((clock() - start) * 1000.0)
        return taken


def percentile_95(values: list[float]) -> float:
    """The smallest of ``values`` that at least 95 % of them do not exceed (nearest rank); there is at least one."""
    return sorted(values)[-(-95 * len(values) // 100) - 1]
