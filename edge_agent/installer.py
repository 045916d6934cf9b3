"""Performs the effects of one execution: download, keep, prove, switch, revert. What happened comes back as events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Final

from edge_agent.adapters.slots import BlobStore, verify_blob
from edge_agent.delivery import Limits
from edge_agent.download import Download
from edge_agent.execution import (
    AlreadyServed,
    Effect,
    Event,
    Execution,
    Kept,
    NotReverted,
    Progressed,
    Proved,
    Ready,
    Reverted,
    Switched,
    TurnCame,
    Verified,
)
from edge_agent.identity import Identity, sealed_model
from edge_agent.journal import Journal
from edge_agent.ports import Inference, SealedModel, Transport
from edge_agent.records import ModelRecord
from edge_agent.updater import failure
from fleet_protocol.errors import FleetError, TrustError
from fleet_protocol.identifiers import Digest, SlotName
from fleet_protocol.messages import MissingChunks

_LOG: Final = logging.getLogger(__name__)
Events = tuple[Event, ...]


class Installer:
    """The hands of the updater. Everything here may be repeated after a power cut."""

    def __init__(
        self,
        identity: Identity,
        journal: Journal,
        store: BlobStore,
        inference: Inference,
        transport: Transport,
        *,
        slots: Collection[SlotName],
        limits: Limits,
        monotonic: Callable[[], float],
    ) -> None:
        self._identity, self._journal, self._store = identity, journal, store
        self._inference, self._transport = inference, transport
        self._slots, self._limits, self._monotonic = frozenset(slots), limits, monotonic
        self._downloads: dict[int, Download] = {}
        self._models: dict[int, SealedModel] = {}
        self._acts: Mapping[Effect, Callable[[Execution], Events]] = {
            Effect.PREFLIGHT: self._preflight, Effect.DOWNLOAD: self._download, Effect.KEEP: self._keep,
            Effect.TAKE_TURN: lambda _: (TurnCame(),), Effect.PROVE: self._prove, Effect.SWITCH: self._switch,
            Effect.RESTAGE: self._restage, Effect.COMMIT: self._commit, Effect.REVERT: self._revert,
            Effect.DISCARD: self._discard,
        }  # fmt: skip

    def perform(self, effect: Effect, execution: Execution) -> Events:
        """Act; what the act led to, a failure included."""
        if execution.slot not in self._slots:  # the configuration lost the slot while the journal still knows it
            return (Reverted(),) if effect is Effect.REVERT else ()
        try:
            return self._acts[effect](execution)
        except FleetError as error:
            _LOG.warning("deployment.%s slot=%s code=%s %s", effect.name.lower(), execution.slot, error.code, error)
            return (failure(error),)

    def model_of(self, execution: Execution) -> SealedModel:
        """The model that ``execution`` installs, with its key. Raises TrustError or DamagedJournal."""
        model = self._models.get(execution.number)
        if model is None:
            record = self._journal.model(execution.slot, "candidate")
            if record is None:
                raise RuntimeError(f"execution {execution.number} has no admitted model; this is a bug")
            model = self._models[execution.number] = self._sealed(record)
        return model

    def serve_kept(self, slot: SlotName) -> None:
        """At boot: serve what the slot ran, or, where that cannot be loaded any more, what it ran before."""
        for record in (self._journal.committed(slot), self._journal.model(slot, "previous")):
            if record is None:
                continue
            try:
                self._inference.serve(self._sealed(record))
            except FleetError as error:
                _LOG.error("slot.not_served slot=%s manifest=%s code=%s %s", slot, record.digest, error.code, error)
            else:
                return

    # --- downloads ----------------------------------------------------------------------------------------------------
    def chunk(self, blob: Digest, index: int, content: bytes) -> tuple[list[tuple[int, Event]], MissingChunks | None]:
        """A chunk came: what it means for the execution that waits for it, and what the server has to be told."""
        events: list[tuple[int, Event]] = []
        for number, download in list(self._downloads.items()):
            if download.blob != blob:
                continue
            try:
                missing = download.receive(index, content, self._transport, self._monotonic())
                download.ask(self._transport, self._monotonic())
            except FleetError as error:
                return [(number, failure(error))], None
            events.append((number, Progressed(download.done, download.total)))
            if download.is_complete:
                events.append((number, self._verified(number, download)))
            return events, missing
        return events, None

    def check_downloads(self) -> list[MissingChunks]:
        """Ask for what may be asked for now; what to tell the server of chunks that do not come."""
        missing = [each.check(self._transport, self._monotonic()) for each in self._downloads.values()]
        for download in self._downloads.values():
            download.ask(self._transport, self._monotonic())
        return [report for report in missing if report is not None]

    def slow_downloads(self) -> list[tuple[int, Event]]:
        """The downloads that come too slowly, and how each ends for it."""
        judged = [(number, each.too_slow(self._monotonic())) for number, each in self._downloads.items()]
        return [(number, failure(error)) for number, error in judged if error is not None]

    def link_lost(self) -> None:
        """The connection ended and every subscription with it."""
        for download in self._downloads.values():
            download.link_lost()

    def end(self, execution: Execution) -> None:
        """The execution is over: nothing of it stays in memory, and no blob on disk that nobody needs."""
        self._models.pop(execution.number, None)
        self._close_download(execution.number)
        self._store.sweep(self._journal.referenced_blobs())

    def withdraw(self, slot: SlotName) -> None:
        """The desired state no longer names the slot: nothing is served there, nothing of it stays on the disk."""
        if slot in self._slots:
            self._inference.stop(slot)
        self._store.sweep(self._journal.referenced_blobs())

    def close(self) -> None:
        """Stop asking for anything; the downloads go on at the next start."""
        for download in self._downloads.values():
            download.link_lost()
        for number in list(self._downloads):
            self._close_download(number)

    # --- effects ------------------------------------------------------------------------------------------------------
    def _preflight(self, execution: Execution) -> Events:
        committed = self._journal.committed(execution.slot)
        serving = self._inference.serving(execution.slot)
        if committed is not None and committed.digest == execution.digest == serving:
            return (AlreadyServed(),)
        self.model_of(execution)
        self._store.check_room(Digest(execution.item.blob_sha256), execution.item.blob_bytes)
        return (Ready(),)

    def _download(self, execution: Execution) -> Events:
        self._close_download(execution.number)
        blob, length = Digest(execution.item.blob_sha256), execution.item.blob_bytes
        model = self.model_of(execution)
        if self._store.has(blob, length):
            try:
                verify_blob(model, blob)
            except TrustError as error:
                _LOG.warning("blob.damaged_on_disk blob=%s %s", blob[:12], error)
            else:
                return (Verified(),)
        download = Download(model, blob, length, self._store.begin(blob, length), self._limits)
        self._downloads[execution.number] = download
        begun = Progressed(download.done, download.total)
        if download.is_complete:
            return begun, self._verified(execution.number, download)
        download.ask(self._transport, self._monotonic())
        return (begun,)

    def _verified(self, number: int, download: Download) -> Event:
        model = self._models[number]
        partial = SealedModel(model.manifest, model.digest, self._store.partial_path(download.blob), model.key)
        self._close_download(number)
        try:
            verify_blob(partial, download.blob)
        except FleetError as error:
            return failure(error)
        return Verified()

    def _keep(self, execution: Execution) -> Events:
        self._store.keep(Digest(execution.item.blob_sha256))
        return (Kept(),)

    def _prove(self, execution: Execution) -> Events:
        proof = self._inference.stage(self.model_of(execution))
        _LOG.info("deployment.proved slot=%s frames=%d p95_ms=%.1f", execution.slot, proof.frames, proof.latency_p95_ms)
        return (Proved(),)

    def _switch(self, execution: Execution) -> Events:
        self._inference.switch(execution.slot)
        return (Switched(),)

    def _restage(self, execution: Execution) -> Events:
        self._inference.stage(self.model_of(execution))
        return self._switch(execution)

    def _commit(self, execution: Execution) -> Events:
        self._inference.commit(execution.slot)
        return ()

    def _revert(self, execution: Execution) -> Events:
        """Back to the committed model, at once where the old worker is still there, else from the disk."""
        slot = execution.slot
        self._inference.revert(slot)
        committed = self._journal.committed(slot)
        if committed is None:
            self._inference.stop(slot)
            return (Reverted(),)
        if self._inference.serving(slot) == committed.digest:
            return (Reverted(),)
        try:
            self._inference.serve(self._sealed(committed))
        except FleetError as error:
            return (NotReverted(f"the model before it cannot be served: {error}"),)
        return (Reverted(),)

    def _discard(self, execution: Execution) -> Events:
        self._inference.discard(execution.slot)
        return ()

    def _sealed(self, record: ModelRecord) -> SealedModel:
        return sealed_model(record, self._identity, self._store.path(record.blob))

    def _close_download(self, number: int) -> None:
        download = self._downloads.pop(number, None)
        if download is not None:
            download.close(self._transport)
