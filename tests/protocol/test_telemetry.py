"""The registry, the messages and a literal list agree, in both directions (SPEC 10.2)."""

import msgspec

from fleet_protocol.messages import HealthReport, SlotHealth
from fleet_protocol.telemetry import DEVICE_METRICS, SLOT_METRICS

DEVICE_NAMES = [
    "seq",
    "at",
    "boot_id",
    "agent_version",
    "fingerprint",
    "uptime_s",
    "cpu_percent",
    "memory_used_bytes",
    "memory_total_bytes",
    "agent_rss_bytes",
    "disk_free_bytes",
    "temperature_celsius",
    "assignment_seq",
    "root_version",
    "timestamp_version",
    "trusted_time",
    "clock_offset_s",
    "spool_depth",
    "spool_dropped",
    "slots",
]
SLOT_NAMES = [
    "slot",
    "served_sha256",
    "model",
    "version",
    "frames",
    "errors",
    "dropped",
    "fps",
    "latency",
    "predictions",
]


def field_names(kind: type[msgspec.Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(kind) if field.name != "schema"]


def test_every_field_is_registered_and_every_metric_is_a_field() -> None:
    assert [metric.name for metric in DEVICE_METRICS] == field_names(HealthReport)
    assert [metric.name for metric in SLOT_METRICS] == field_names(SlotHealth)


def test_names_and_their_order_are_pinned() -> None:
    """Code and registry could be renamed together; devices in the field could not."""
    assert field_names(HealthReport) == DEVICE_NAMES
    assert field_names(SlotHealth) == SLOT_NAMES


def test_every_metric_says_what_it_means() -> None:
    assert all(metric.meaning.endswith(".") for metric in DEVICE_METRICS + SLOT_METRICS)
