"""One package to make, as a value that may travel to another process or machine, and the whole of making it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fleet_protocol.errors import DiskFull
from model_compiler import cache, drafting, inputs, pipeline, toolchain
from model_compiler.cache import Finished, PackageCache
from model_compiler.drafting import Wish
from model_compiler.errors import CannotWrite, FarmUnreachable, MissingExtra
from model_compiler.inputs import Inputs
from model_compiler.progress import Event, Report

CONNECT_S: Final = 5


@dataclass(frozen=True, slots=True)
class Order:
    """A recipe's path, or a wish in its place; where finished packages are kept; images worked on at once."""

    source: Path | Wish
    cache_dir: Path
    jobs: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order. ``objection``: why the result was not cached, if it was not."""

    finished: Finished
    is_cached: bool
    objection: str = ""


def gather(source: Path | Wish, store: PackageCache) -> Inputs:
    """All that an order reads, bounded and hashed; raises what :func:`inputs.gather` and :func:`drafting.draft` raise.

    What the words of a wish mean is found out once and kept in ``store``.
    """
    if isinstance(source, Path):
        return inputs.gather(source)
    folder = Path()
    key = drafting.key_of(source, folder, toolchain.fingerprint())
    drafted = store.draft(key)
    if drafted is None:
        drafted = drafting.draft(source, folder)
        with contextlib.suppress(CannotWrite, DiskFull):  # it is found out again then
            store.keep_draft(key, drafted)
    return inputs.gather_text(drafted.text, folder, drafted.notes)


def fulfil(order: Order, report: Report) -> Outcome:
    """The package from the cache, or compiled now and kept; only a search's journal and ranges are written besides.

    Raises what the pipeline raises.
    """
    store = PackageCache(order.cache_dir)
    gathered = gather(order.source, store)
    key = cache.key_of(gathered, toolchain.fingerprint())
    known = store.find(key)
    if known:
        return Outcome(known, is_cached=True)
    compiled = pipeline.compile_inputs(gathered, order.jobs, report, store.journal(key), order.cache_dir)
    finished = Finished(compiled.package, compiled.record)
    if not compiled.is_complete:
        return Outcome(
            finished, is_cached=False, objection="its search was interrupted; the next one goes on from there"
        )
    try:
        store.keep(key, finished)
    except (CannotWrite, DiskFull) as error:
        # A lost cache entry costs time only; the package is safe.
        return Outcome(finished, is_cached=False, objection=str(error))
    return Outcome(finished, is_cached=False)


def fulfil_all(orders: Iterable[Order], report: Report) -> Iterator[Outcome]:
    """One order after the other on this machine; each uses all of its jobs."""
    return (fulfil(order, report) for order in orders)


def fulfil_on_farm(orders: Iterable[Order], scheduler: str) -> Iterator[Outcome]:
    """The orders on the workers of a Dask scheduler, which see the same files; outcomes in the orders' order.

    Raises MissingExtra without Dask, FarmUnreachable without a scheduler, otherwise what the first order that fails raises.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise MissingExtra("a compile farm needs Dask; install it with pip install 'edgefleet[farm]'") from error
    with _connected(Client, scheduler) as client:
        futures = [client.submit(_fulfil_silently, order, pure=False) for order in orders]
        try:
            for each in futures:
                yield each.result()
        finally:
            client.cancel(futures)


def _connected(client: Callable[..., Any], scheduler: str) -> Any:
    try:
        return client(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise FarmUnreachable(f"no Dask scheduler answers at {scheduler}; start one, or leave out --dask") from error


def _fulfil_silently(order: Order) -> Outcome:
    return fulfil(order, _unheard)


def _unheard(event: Event) -> None:
    """A farm's worker has nobody to tell."""
