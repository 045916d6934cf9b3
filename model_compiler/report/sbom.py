"""The package as a CycloneDX bill of materials: its models with digests and measured accuracy, and the tools that made them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Final

from model_compiler.report.record import Made, Record

if TYPE_CHECKING:
    from cyclonedx.model import HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component

_NAMESPACE: Final = uuid.UUID("5d0f7c0e-6d0b-5a0e-9f0a-7f2b0a3f9c11")
_NOT_PYPI: Final = frozenset({"edgefleet", "python"})


def render(record: Record) -> bytes:
    """CycloneDX 1.6 as JSON. Made of the record only: no date, a serial number that is the package's digest."""
    from cyclonedx.output.json import JsonV1Dot6

    return JsonV1Dot6(_bom(record)).output_as_string(indent=1).encode() + b"\n"


def _bom(record: Record) -> Bom:
    from cyclonedx.model.bom import Bom, BomMetaData

    package = _package(record)
    models = [_model(each, record) for each in record.variants]
    tools = [_tool(name, version) for name, version in sorted(record.origin.toolchain.items())]
    bom = Bom(
        components=[*models, *tools],
        serial_number=uuid.uuid5(_NAMESPACE, record.package_sha256),
        metadata=BomMetaData(component=package),
    )
    # The library dates every bill; the same package should have the same one.
    bom.metadata.timestamp = None  # type: ignore[assignment]  # its setter is typed stricter than the format
    bom.register_dependency(package, models)
    for model in models:
        bom.register_dependency(model, tools)
    return bom


def _package(record: Record) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=record.model,
        version=record.version,
        type=ComponentType.FILE,
        bom_ref=f"package:{record.package_sha256}",
        hashes=[_sha256(record.package_sha256)],
    )


def _model(made: Made, record: Record) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    told = {
        "runtime": made.runtime,
        "precision": made.precision,
        "method": made.method,
        "manifest-sha256": made.digest,
        "source-sha256": record.origin.source_sha256,
        "calibration-sha256": record.origin.calibration_sha256,
        "evaluation-sha256": record.origin.evaluation_sha256,
        f"accuracy:{record.metric}": f"{made.accuracy:.6f}",
        f"accuracy:{record.metric}:fp32": f"{record.baseline:.6f}",
        "boards": ",".join(made.boards),
    }
    return Component(
        name=f"{record.model}/{made.variant}",
        version=record.version,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"variant:{made.variant}",
        hashes=[_sha256(made.model_sha256)],
        properties=[Property(name=f"edgefleet:{name}", value=value) for name, value in told.items()],
    )


def _tool(name: str, version: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    is_package = name not in _NOT_PYPI
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY if is_package else ComponentType.APPLICATION,
        bom_ref=f"tool:{name}",
        purl=PackageURL("pypi", None, name, version) if is_package else None,
    )


def _sha256(digest: str) -> HashType:
    from cyclonedx.model import HashAlgorithm, HashType

    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
