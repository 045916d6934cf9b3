"""Renewal's wire form: what is signed, and that nothing else passes (SPEC 9.3)."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fleet_protocol import renewal
from fleet_protocol.errors import BadSignature, MalformedMessage
from fleet_protocol.identifiers import DeviceId, FleetId

FLEET, CAM = FleetId("acme"), DeviceId("cam-1")
CSR, CHALLENGE = b"a request", "1790000000.abc"


def test_the_signed_bytes_are_these() -> None:
    assert renewal.statement(FLEET, CAM, CSR, CHALLENGE).hex() == (
        "0000001265646765666c6565742f72656e65772f76310000000461636d650000000563616d2d3100000020af0bf2a562"
        "dabe2a81e0b0b47a33a515b5e8495c72fff218af4c15f3f066fa440000000e313739303030303030302e616263"
    )


def test_a_border_between_fields_cannot_be_moved() -> None:
    one = renewal.statement(FleetId("acme"), DeviceId("cam-1"), CSR, CHALLENGE)
    assert one != renewal.statement(FleetId("acmec"), DeviceId("am-1"), CSR, CHALLENGE)


def test_a_signature_holds_for_its_own_request_only() -> None:
    key, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    signature = renewal.sign(key, FLEET, CAM, CSR, CHALLENGE)
    renewal.verify(key.public_key(), signature, FLEET, CAM, CSR, CHALLENGE)
    for changed in (
        (key, FleetId("evil"), CAM, CSR, CHALLENGE),
        (key, FLEET, DeviceId("cam-2"), CSR, CHALLENGE),
        (key, FLEET, CAM, b"another request", CHALLENGE),
        (key, FLEET, CAM, CSR, "1790000001.abc"),
        (other, FLEET, CAM, CSR, CHALLENGE),
    ):
        with pytest.raises(BadSignature):
            renewal.verify(changed[0].public_key(), signature, *changed[1:])


@pytest.mark.parametrize("content", [b"{}", b'{"certificate": 1}', b'{"certificate": "x", "more": "y"}', b"[]"])
def test_what_is_no_reply_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedMessage):
        renewal.parse_reply(content)


@pytest.mark.parametrize("text", ["not base64!", "a" * 10_000])
def test_a_field_that_is_no_base64_or_too_long_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        renewal.decode(text, 4096)
