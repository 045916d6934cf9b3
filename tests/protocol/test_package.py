"""The package file (SPEC 4.1)."""

import io
import zipfile

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet_protocol import package
from fleet_protocol.errors import FleetError, MalformedPackage, PayloadMismatch
from tests.protocol import samples


def packed() -> bytes:
    int8, payload = samples.sample()
    fp32 = msgspec.structs.replace(int8, variant="ort-fp32")
    stream = io.BytesIO()
    package.write(stream, [(int8, payload), (fp32, payload)])
    return stream.getvalue()


def test_a_package_reads_back_in_its_order_of_preference() -> None:
    read = package.read(io.BytesIO(packed()))
    assert [each.manifest.variant for each in read.variants] == ["ort-int8", "ort-fp32"]
    assert b"".join(package.read_payload(io.BytesIO(packed()), "ort-fp32")) == samples.sample()[1]


def test_the_same_contents_are_the_same_bytes() -> None:
    assert packed() == packed()


def test_a_device_gets_the_most_preferred_variant_that_it_can_run() -> None:
    read = package.read(io.BytesIO(packed()))
    chosen = read.choose(samples.FINGERPRINT)
    assert chosen is not None
    assert chosen.manifest.variant == "ort-int8"
    assert read.choose(msgspec.structs.replace(samples.FINGERPRINT, board="raspberry-pi-5")) is None


def rewritten(change: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(packed())) as source, zipfile.ZipFile(stream, "w", compression) as target:
        for name in source.namelist():
            content = change.get(name, source.read(name))
            if content != b"DROP":
                target.writestr(name, content)
    return stream.getvalue()


def test_a_changed_payload_is_refused() -> None:
    with pytest.raises(PayloadMismatch):
        package.read(io.BytesIO(rewritten({"ort-int8/payload.bin": b"evil"})))


BROKEN = {
    "not a zip": b"hello",
    "cut": packed()[:-100],
    "compressed": rewritten({}, zipfile.ZIP_DEFLATED),
    "no index": rewritten({"package.json": b"DROP"}),
    "no payload": rewritten({"ort-int8/payload.bin": b"DROP"}),
    "another's manifest": rewritten({"ort-fp32/manifest.json": samples.manifest().encode()}),
    "a path as variant": rewritten(
        {"package.json": b'{"schema":1,"model":"orientation","version":"1.0.0","variants":["../../x"]}'}
    ),
    "no variants": rewritten({"package.json": b'{"schema":1,"model":"orientation","version":"1.0.0","variants":[]}'}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_package_is_refused(name: str) -> None:
    with pytest.raises(FleetError):
        package.read(io.BytesIO(BROKEN[name]))


@given(st.integers(0, 10**6), st.integers(0, 255))
@settings(max_examples=50)
def test_a_flipped_byte_is_refused_or_harmless(at: int, value: int) -> None:
    content = bytearray(packed())
    content[at % len(content)] = value
    try:
        read = package.read(io.BytesIO(bytes(content)))
    except FleetError:
        return
    assert read == package.read(io.BytesIO(packed()))


def test_a_variant_is_named_once() -> None:
    index = b'{"schema":1,"model":"orientation","version":"1.0.0","variants":["ort-int8","ort-int8"]}'
    with pytest.raises(MalformedPackage):
        package.read(io.BytesIO(rewritten({"package.json": index})))
