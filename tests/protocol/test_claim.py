"""Claims (SPEC 9.1)."""

import pytest
from cryptography import x509

from fleet_protocol import claim
from fleet_protocol.errors import InputTooLarge, MalformedClaim, MalformedInput, WrongPin

CLAIM = claim.Claim("0123456789ab", bytes(range(32)), claim.pin_of(b"ca"), claim.pin_of(b"root"))


def test_a_claim_reads_back_from_what_a_person_copied() -> None:
    assert claim.Claim.parse(f"  {CLAIM}\n") == CLAIM


def test_the_secret_is_not_in_the_repr() -> None:
    assert claim.encode_secret(CLAIM.secret) not in repr(CLAIM)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "efc2." + str(CLAIM)[5:],
        str(CLAIM)[:-4],
        str(CLAIM) + ".x",
        str(CLAIM).replace("0123456789ab", "../x"),
        "efc1.0123456789ab.!.!.!",
    ],
)
def test_a_damaged_claim_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(MalformedClaim) as refusal:
        claim.Claim.parse(text)
    assert claim.encode_secret(CLAIM.secret) not in str(refusal.value)


def test_pins_know_the_right_server() -> None:
    CLAIM.check_ca(b"ca")
    CLAIM.check_root(b"root")
    with pytest.raises(WrongPin):
        CLAIM.check_ca(b"impostor")
    with pytest.raises(WrongPin):
        CLAIM.check_root(b"impostor")


def test_the_extension_identifier_is_valid_and_pinned() -> None:
    assert x509.ObjectIdentifier(claim.HPKE_KEY_OID).dotted_string == "2.25.197604013273218361840437842101934510077"


@pytest.mark.parametrize("content", [b"{}", b"[]", b"\xff", b'{"fleet":1}'])
def test_a_reply_of_another_shape_is_refused(content: bytes) -> None:
    with pytest.raises(MalformedInput):
        claim.parse_reply(content)
    with pytest.raises(InputTooLarge):
        claim.parse_reply(b" " * 70_000)
