"""One blob on its way: the window decides what to ask for, every chunk is verified before it is written (SPEC 7.4)."""

from __future__ import annotations

from edge_agent.adapters.slots import PartialBlob
from edge_agent.delivery import Limits, Window, missing_report
from edge_agent.ports import SealedModel, Transport
from fleet_protocol import topics
from fleet_protocol.envelope import HEADER_BYTES, ChunkReader
from fleet_protocol.errors import ChunkTampered, FleetError
from fleet_protocol.identifiers import Digest
from fleet_protocol.messages import MissingChunks


class Download:
    """A partial blob, its window and the subscriptions to the chunks that it lacks."""

    def __init__(self, model: SealedModel, blob: Digest, blob_bytes: int, partial: PartialBlob, limits: Limits) -> None:
        self._model = model
        self.blob = blob
        self._blob_bytes = blob_bytes
        self._partial = partial
        self._window = Window(partial.missing(), limits)
        self._reader: ChunkReader | None = None

    @property
    def done(self) -> int:
        """Chunks on disk."""
        return self._partial.total - len(self._window.missing)

    @property
    def total(self) -> int:
        """Chunks of the blob."""
        return self._partial.total

    @property
    def is_complete(self) -> bool:
        """Whether every chunk is on disk."""
        return self._window.is_complete

    def ask(self, transport: Transport, now_s: float) -> None:
        """Subscribe to the chunks that the window allows now."""
        wanted = self._window.next(now_s) if transport.is_connected else []
        if wanted:
            transport.subscribe([topics.chunk_topic(self.blob, index) for index in wanted])

    def receive(self, index: int, content: bytes, transport: Transport, now_s: float) -> MissingChunks | None:
        """Verify and keep a chunk. Returns what to tell the server where the broker holds a wrong one.

        Raises ChunkTampered when too many did not authenticate, DiskFull or DeliveryError when one cannot be kept.
        """
        if index not in self._window.missing:
            return None
        try:
            self._verify(index, content)
        except ChunkTampered:
            error = self._window.not_authentic()
            if error is not None:
                raise error from None
            # It stays subscribed: the server's next publication of this chunk comes by itself.
            return missing_report(self.blob, self._blob_bytes, self.total, {index})
        self._partial.write(index, content)
        self._window.arrived(index, now_s)
        transport.unsubscribe([topics.chunk_topic(self.blob, index)])
        if self.is_complete:
            self._partial.sync()
        return None

    def check(self, transport: Transport, now_s: float) -> MissingChunks | None:
        """Where nothing came for too long: give up what was asked for, and what to tell the server (SPEC 7.5)."""
        if not self._window.is_stalled(now_s):
            return None
        lost = self._window.stalled(now_s)
        transport.unsubscribe([topics.chunk_topic(self.blob, index) for index in lost])
        self._partial.sync()
        return missing_report(self.blob, self._blob_bytes, self.total, self._window.missing)

    def too_slow(self, now_s: float) -> FleetError | None:
        """Why it is given up, where chunks come too slowly to ever be a download (SPEC 7.5.1)."""
        return self._window.too_slow(now_s)

    def link_lost(self) -> None:
        """The connection ended and every subscription with it; what came so far is made durable."""
        self._window.link_lost()
        self._partial.sync()

    def close(self, transport: Transport) -> None:
        """Stop asking. What is on disk stays there."""
        if self._window.asked:
            transport.unsubscribe([topics.chunk_topic(self.blob, index) for index in sorted(self._window.asked)])
        self._partial.close()

    def _verify(self, index: int, content: bytes) -> None:
        header = content[:HEADER_BYTES] if index == 0 else self._partial.header()
        if index == 0 and len(header) < HEADER_BYTES:
            raise ChunkTampered("chunk 0 is shorter than the blob's header")
        if self._reader is None:
            self._reader = ChunkReader(self._model.key, self._model.digest, header, self._blob_bytes)
        self._reader.open_message(index, memoryview(content)[HEADER_BYTES:] if index == 0 else content)
