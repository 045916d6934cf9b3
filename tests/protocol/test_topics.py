"""Topic names (SPEC 7.1): devices in the field know these strings."""

import pytest

from fleet_protocol import topics
from fleet_protocol.errors import MalformedIdentifier
from fleet_protocol.identifiers import DeviceId, Digest

CAM = DeviceId("cam-7")
BLOB = Digest("ab" * 32)


def test_topic_names_are_pinned() -> None:
    assert {topic.of(CAM) for topic in topics.DEVICE_TOPICS} == {
        "edgefleet/v1/d/cam-7/down/assignment",
        "edgefleet/v1/d/cam-7/up/health",
        "edgefleet/v1/d/cam-7/up/deployment",
        "edgefleet/v1/d/cam-7/up/missing",
        "edgefleet/v1/d/cam-7/up/presence",
    }
    assert topics.METADATA == "edgefleet/v1/meta/tuf"
    assert topics.manifest_topic(BLOB) == f"edgefleet/v1/meta/manifest/{BLOB}"
    assert topics.chunk_topic(BLOB, 12) == f"edgefleet/v1/blob/{BLOB}/12"


@pytest.mark.parametrize("topic", topics.DEVICE_TOPICS, ids=lambda topic: topic.name)
def test_a_topic_reads_back(topic: topics.DeviceTopic) -> None:
    assert topics.parse_device_topic(topic.of(CAM)) == (CAM, topic, False)
    assert topics.parse_device_topic(topic.of(CAM) + topics.JSON_SUFFIX) == (CAM, topic, True)


def test_a_chunk_topic_reads_back() -> None:
    assert topics.parse_chunk_topic(topics.chunk_topic(BLOB, 7)) == (BLOB, 7)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "edgefleet/v1/d/cam-7/up/assignment",
        "edgefleet/v1/d/+/up/health",
        "edgefleet/v1/d/a/b/up/health",
        "x/health",
    ],
)
def test_a_foreign_topic_is_refused(text: str) -> None:
    with pytest.raises(MalformedIdentifier):
        topics.parse_device_topic(text)
    with pytest.raises(MalformedIdentifier):
        topics.parse_chunk_topic(text)


def test_a_device_may_touch_its_own_subtree_and_read_what_is_shared() -> None:
    rules = topics.access_rules().splitlines()
    assert [rule for rule in rules if rule.startswith("pattern")] == [
        "pattern write edgefleet/v1/d/%u/up/#",
        "pattern read edgefleet/v1/d/%u/down/#",
        "pattern read edgefleet/v1/meta/#",
        "pattern read edgefleet/v1/blob/+/+",
    ]
