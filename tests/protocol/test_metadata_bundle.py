"""The metadata bundle (SPEC 4.4): the first thing that untrusted bytes meet."""

import zlib

import pytest

from fleet_protocol import metadata_bundle
from fleet_protocol.errors import InputTooLarge, MalformedInput, MalformedMessage

FILES = {"1.root.json": b'{"a":1}', "timestamp.json": b"{}", "keys/ab.director.json": "é".encode()}


def test_a_bundle_reads_back_and_is_deterministic() -> None:
    assert metadata_bundle.unpack(metadata_bundle.pack(FILES)) == FILES
    assert metadata_bundle.pack(FILES) == metadata_bundle.pack(dict(reversed(FILES.items())))


@pytest.mark.parametrize(
    "packed", [zlib.compress(b"0" * 50_000_000), bytes(2_000_000), metadata_bundle.pack(FILES)[:-3]]
)
def test_a_bomb_or_a_cut_bundle_is_refused(packed: bytes) -> None:
    with pytest.raises(InputTooLarge):
        metadata_bundle.unpack(packed)


@pytest.mark.parametrize(
    "packed", [b"", b"hello", zlib.compress(b"[1]"), zlib.compress(b'{"a":1}'), zlib.compress(b"{")]
)
def test_another_shape_is_refused(packed: bytes) -> None:
    with pytest.raises(MalformedInput):
        metadata_bundle.unpack(packed)
    assert issubclass(MalformedMessage, MalformedInput)
