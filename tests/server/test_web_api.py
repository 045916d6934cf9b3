"""The JSON API over a real fleet: from claim to rollout, refusals with stable codes, limits, live events."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from fleet_protocol import errors, metadata_bundle
from fleet_protocol import package as packages
from fleet_protocol.claim import Claim
from fleet_protocol.identifiers import DeviceId
from fleet_server.ceremony import Founding
from fleet_server.changes import Change, ChangeFeed
from fleet_server.fleet import Fleet
from fleet_server.web.guards import MAX_BODY_BYTES, MAX_UPLOAD_BYTES
from fleet_server.web.problems import STATUS, status_of
from fleet_server.web.rate import MAX_ADDRESSES, RateLimit, RateLimited
from fleet_server.web.routes.events import frames
from tests.server import kit
from tests.server.kit import SteppedClock
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import INSTALL, Answer, Voice, WebServer, wait_for

POLICY = {"waves": [{"title": "canary", "size": 1}, {"title": "all", "size": "100%"}], "bake_s": 0}


def upload(web: WebServer, metadata: bytes, package: bytes, *, token: str = "", parts: tuple[str, ...] = ()) -> Answer:
    """Post a release as multipart."""
    boundary = "edge-boundary"
    named = {"metadata": metadata, "package": package}
    body = b""
    for name in parts or ("metadata", "package"):
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="x"\r\n\r\n'
        body += head.encode() + named.get(name, b"?") + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return web.ask("POST", "/v1/releases", body, token=token, headers=headers)


def package_of(tmp_path: Path, **changes: object) -> tuple[Path, bytes]:
    path = tmp_path / f"{changes.get('version', 'one')}.efpkg"
    kit.write_package(path, **changes)
    return path, path.read_bytes()


def released(web: WebServer, founding: Founding, tmp_path: Path, **changes: object) -> Answer:
    _, content = package_of(tmp_path, **changes)
    metadata = kit.signed(web.fleet, founding, packages.read(io.BytesIO(content)))
    return upload(web, metadata, content)


# --- the main path ---------------------------------------------------------------------------------------------------
def test_from_a_claim_to_a_finished_rollout(web: WebServer, web_founding: Founding, tmp_path: Path) -> None:
    """The whole life over HTTPS; only the device's own messages go to the ingest directly."""
    order = {"device": "cam-1", "board": kit.BOARD, "ttl_s": 3600}
    claimed = web.ask("POST", "/v1/claims", order)
    assert claimed.status == 201
    device = kit.DeviceKit(DeviceId("cam-1"))
    request = msgspec.json.encode(device.request(Claim.parse(claimed.json["claim"])))
    enrolled = web.ask("POST", "/v1/enrol", request, token=None)
    assert enrolled.status == 200
    assert "BEGIN CERTIFICATE" in enrolled.json["certificate"]
    assert [each["state"] for each in web.ask("GET", "/v1/claims").json] == ["used"]
    voice = Voice(web.fleet, device.id)
    voice.online()
    voice.health()

    release = released(web, web_founding, tmp_path)
    assert release.status == 201
    manifest = release.json["variants"][0]["manifest_sha256"]

    wanted = {"release_id": release.json["id"], "selector": "all", "policy": POLICY, "reason": "first"}
    preview = web.ask("POST", "/v1/rollouts/preview", wanted).json
    assert (preview["members"], preview["devices"][0]["device"]) == (1, "cam-1")
    rollout = web.ask("POST", "/v1/rollouts", {**wanted, "salt": preview["salt"]}).json
    assert rollout["state"] == "DRAFT"
    assert web.ask("POST", f"/v1/rollouts/{rollout['id']}/start", {"reason": "go"}).json["state"] == "RUNNING"
    web.fleet.rollouts.tick(web.fleet.clock())
    assert "not yet at the broker" in web.ask("GET", "/v1/devices/cam-1/why").json["sentence"]

    voice.deployment(manifest, *INSTALL, assignment=1, served=manifest)
    voice.health(manifest, assignment=1)
    for _ in range(4):
        web.fleet.rollouts.tick(web.fleet.clock())
    ended = web.ask("GET", f"/v1/rollouts/{rollout['id']}").json
    assert ended["state"] == "FINISHED"
    assert ended["waves"][0]["confirmed"] == 1
    assert web.ask("GET", "/v1/devices/cam-1/why").json["verdict"] == "up-to-date"
    (row,) = web.ask("GET", "/v1/devices").json["devices"]
    assert row["online"] is True
    assert row["slots"][0]["serves"]["version"] == "1.0.0"
    assert row["slots"][0]["is_desired"] is True
    assert row["slots"][0]["p95_ms"] == pytest.approx(7.8, rel=0.03)
    actions = [each["action"] for each in web.ask("GET", "/v1/audit").json]
    assert {"rollout.create", "rollout.start"} <= set(actions)


def test_a_rollout_takes_all_verbs_and_refuses_those_out_of_place(
    web: WebServer, web_founding: Founding, tmp_path: Path
) -> None:
    for name in ("cam-1", "cam-2", "cam-3"):
        kit.enrol(web.fleet, name)
        Voice(web.fleet, DeviceId(name)).health()
    release = released(web, web_founding, tmp_path).json
    rollout = web.ask("POST", "/v1/rollouts", {"release_id": release["id"], "policy": POLICY}).json
    path = f"/v1/rollouts/{rollout['id']}"
    refused = web.ask("POST", f"{path}/pause", {"reason": ""})
    assert (refused.status, refused.json["code"]) == (409, "conflict")
    for verb, state in (("start", "RUNNING"), ("pause", "PAUSED"), ("resume", "RUNNING")):
        assert web.ask("POST", f"{path}/{verb}", {"reason": "test"}).json["state"] == state
    web.fleet.rollouts.tick(web.fleet.clock())
    assert len(web.ask("GET", f"{path}/devices").json) == 1
    assert web.ask("POST", f"{path}/promote", {"reason": "test"}).json["waves"][0]["state"] == "PASSED"
    assert web.ask("POST", f"{path}/abort", {"reason": "test"}).json["state"] == "ABORTED"
    assert web.ask("POST", f"{path}/undo", {"reason": "test"}).json["state"] == "RUNNING"
    assert web.ask("POST", f"{path}/explode", {"reason": "test"}).status == 422


def test_devices_are_paged_by_id_and_filtered(web: WebServer) -> None:
    for number in range(5):
        kit.enrol(web.fleet, f"cam-{number}")
    kit.enrol(web.fleet, "gate_1".replace("_", "-"))
    Voice(web.fleet, DeviceId("cam-3")).online()
    seen, after = [], ""
    while after is not None:
        page = web.ask("GET", f"/v1/devices?limit=2&after={after}").json
        seen += [each["id"] for each in page["devices"]]
        after = page["next_after"]
    assert seen == ["cam-0", "cam-1", "cam-2", "cam-3", "cam-4", "gate-1"]
    ids = [each["id"] for each in web.ask("GET", "/v1/devices?text=gate").json["devices"]]
    assert ids == ["gate-1"]
    ids = [each["id"] for each in web.ask("GET", "/v1/devices?presence=online").json["devices"]]
    assert ids == ["cam-3"]
    assert web.ask("GET", "/v1/devices?text=%25").json["devices"] == []


def test_tags_are_set_and_revocation_is_final(web: WebServer) -> None:
    kit.enrol(web.fleet, "cam-1")
    tagged = web.ask("PUT", "/v1/devices/cam-1/tags", {"tags": {"site": "berlin"}, "reason": "moved"}).json
    assert tagged["device"]["tags"] == {"site": "berlin"}
    revoked = web.ask("POST", "/v1/devices/cam-1/revoke", {"reason": "stolen"}).json
    assert (revoked["device"]["state"], revoked["why"]["verdict"]) == ("revoked", "blocked")


# --- metadata --------------------------------------------------------------------------------------------------------
def test_signed_metadata_comes_whole_or_file_by_file(web: WebServer) -> None:
    bundle = metadata_bundle.unpack(web.ask("GET", "/v1/meta/bundle", token=None).body)
    assert bundle == web.fleet.tuf.files()
    for name, content in bundle.items():
        assert web.ask("GET", f"/v1/meta/{name}", token=None).body == content
    assert web.ask("GET", "/v1/meta/models.json", token=None).body == web.fleet.tuf.models()


@pytest.mark.parametrize("name", ["99.root.json", "../keys/ca.key", "%2e%2e%2fconfig.toml", ""])
def test_no_other_file_is_served(web: WebServer, name: str) -> None:
    assert web.ask("GET", f"/v1/meta/{name}", token=None).status == 404


def test_the_ca_comes_as_pem_or_der(web: WebServer) -> None:
    assert web.ask("GET", "/v1/ca", token=None).body == web.fleet.ca.certificate_pem
    der = web.ask("GET", "/v1/ca", token=None, headers={"Accept": "application/pkix-cert"})
    assert der.body == web.fleet.ca.certificate_der


# --- refusals --------------------------------------------------------------------------------------------------------
def test_every_error_of_the_contract_has_a_status_of_its_family() -> None:
    for kind in errors.all_errors():
        error = kind.__new__(kind)
        assert status_of(error) >= 400
        if issubclass(kind, errors.RefusedRequest | errors.MalformedInput | errors.TrustError):
            assert status_of(error) < 500, kind
    assert all(issubclass(kind, errors.FleetError) for kind in STATUS)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/devices/nobody", None, 404, "not-found"),
        ("GET", "/v1/releases/7", None, 404, "not-found"),
        ("GET", "/v1/rollouts/7", None, 404, "not-found"),
        ("GET", "/v1/rollouts/7/devices", None, 404, "not-found"),
        ("GET", "/v1/nowhere", None, 404, "not-found"),
        ("DELETE", "/v1/devices/x", None, 405, "method-not-allowed"),
        ("POST", "/v1/claims", {"device": "A/#", "board": "b"}, 422, "malformed-identifier"),
        ("POST", "/v1/claims", {"device": "a", "board": "b", "admin": True}, 422, "malformed-input"),
        ("POST", "/v1/claims", {"device": "a"}, 422, "malformed-input"),
        ("POST", "/v1/tokens", {"name": "x", "role": "root"}, 422, "malformed-input"),
        ("POST", "/v1/tokens", {"name": "admin", "role": "viewer"}, 409, "conflict"),
        ("POST", "/v1/rollouts", {"release_id": 1, "policy": {}}, 422, "malformed-policy"),
        ("POST", "/v1/rollouts", {"release_id": 7, "policy": POLICY}, 404, "not-found"),
        ("POST", "/v1/rollouts/7/start", {"reason": ""}, 404, "not-found"),
        ("POST", "/v1/releases", {"package": "x"}, 422, "malformed-input"),
        ("POST", "/v1/enrol", {"claim_id": "x"}, 422, "malformed-message"),
        ("GET", "/v1/devices?limit=0", None, 422, "malformed-input"),
    ],
)
def test_a_refusal_is_a_problem_document_with_a_stable_code(
    web: WebServer, method: str, path: str, body: object, status: int, code: str
) -> None:
    answer = web.ask(method, path, body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["detail"]
    assert "\n" not in answer.json["detail"]


def test_a_refused_claim_does_not_repeat_its_secret(web: WebServer) -> None:
    claim = Claim.parse(web.ask("POST", "/v1/claims", {"device": "cam-1", "board": kit.BOARD}).json["claim"])
    device = kit.DeviceKit(DeviceId("cam-1"))
    request = device.request(claim)
    answer = web.ask("POST", "/v1/enrol", msgspec.json.encode(msgspec.structs.replace(request, csr="AAAA")), token=None)
    assert (answer.status, answer.json["code"]) == (422, "csr-refused")
    assert request.secret not in answer.text
    malformed = msgspec.json.encode(request)[:-1] + b', "more": 1}'
    assert request.secret not in web.ask("POST", "/v1/enrol", malformed, token=None).text


# --- limits ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["/v1/enrol", "/v1/claims", "/login"])
def test_a_body_at_its_limit_is_read_and_one_byte_more_is_not(web: WebServer, path: str) -> None:
    assert web.ask("POST", path, b" " * MAX_BODY_BYTES).status != 413
    over = web.ask("POST", path, b" " * (MAX_BODY_BYTES + 1))
    assert (over.status, over.json["code"]) == (413, "input-too-large")


def raw(web: WebServer, request: bytes) -> bytes:
    """Bytes over TLS, for requests that no client library would send; the answer's first bytes."""
    address = urlsplit(web.url)
    context = ssl.create_default_context(cafile=str(web.fleet.layout.ca_certificate))
    with (
        socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        tls.sendall(request)
        return tls.recv(4096)


def test_a_body_without_length_is_cut_off_at_the_limit(web: WebServer) -> None:
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    head = b"POST /v1/enrol HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 413 " in raw(web, head + chunk * 3 + b"0\r\n\r\n").splitlines()[0]


def test_an_upload_without_permission_is_refused_before_its_body_is_read(web: WebServer) -> None:
    """Two GiB are announced and none is sent: the answer comes all the same."""
    head = f"POST /v1/releases HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_UPLOAD_BYTES}\r\n\r\n"
    assert b" 401 " in raw(web, head.encode()).splitlines()[0]
    too_long = head.replace(str(MAX_UPLOAD_BYTES), str(MAX_UPLOAD_BYTES + 1))
    assert b" 413 " in raw(web, too_long.encode()).splitlines()[0]


def test_enrolment_is_limited_per_address(web: WebServer, web_clock: SteppedClock) -> None:
    statuses = [web.ask("POST", "/v1/enrol", {}, token=None).status for _ in range(31)]
    assert statuses == [422] * 30 + [429]
    web_clock.advance(1)
    assert web.ask("POST", "/v1/enrol", {}, token=None).status == 422


def test_a_bucket_refills_with_time_and_never_runs_backwards() -> None:
    limit = RateLimit(per_s=1, burst=2)
    limit.take("a", 100)
    limit.take("a", 100)
    limit.take("b", 100)
    with pytest.raises(RateLimited):
        limit.take("a", 50)
    limit.take("a", 51)
    with pytest.raises(RateLimited):
        limit.take("a", 51.5)


def test_the_memory_of_addresses_is_bounded() -> None:
    limit = RateLimit(per_s=0.001, burst=1)
    limit.take("first", 0)
    for number in range(MAX_ADDRESSES):
        limit.take(str(number), 0)
    limit.take("first", 0)


# --- uploads ---------------------------------------------------------------------------------------------------------
def test_the_same_release_may_be_uploaded_twice(web: WebServer, web_founding: Founding, tmp_path: Path) -> None:
    _, content = package_of(tmp_path)
    metadata = kit.signed(web.fleet, web_founding, packages.read(io.BytesIO(content)))
    first, second = upload(web, metadata, content), upload(web, metadata, content)
    assert (first.status, second.status) == (201, 201)
    assert first.json["id"] == second.json["id"]


def test_a_package_that_was_changed_after_signing_is_refused_and_leaves_nothing(
    web: WebServer, web_founding: Founding, tmp_path: Path
) -> None:
    _, content = package_of(tmp_path)
    metadata = kit.signed(web.fleet, web_founding, packages.read(io.BytesIO(content)))
    middle = len(content) // 2
    tampered = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    refused = upload(web, metadata, tampered)
    assert refused.status == 422
    assert refused.json["code"] in {"payload-mismatch", "malformed-package"}
    assert web.ask("GET", "/v1/releases").json == []
    assert list((web.fleet.layout.root / "incoming").iterdir()) == []


@pytest.mark.parametrize(
    "parts", [("package",), ("metadata",), ("package", "package"), ("metadata", "package", "extra")]
)
def test_an_upload_has_its_two_parts_each_once(web: WebServer, parts: tuple[str, ...]) -> None:
    refused = upload(web, b"m", b"p", parts=parts)
    assert (refused.status, refused.json["code"]) == (422, "malformed-input")


def test_an_upload_that_was_cut_is_refused(web: WebServer) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="package"\r\n\r\nhalf a pack'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused = web.ask("POST", "/v1/releases", body, headers=headers)
    assert (refused.status, refused.json["code"]) == (422, "malformed-input")


def test_metadata_over_its_limit_is_refused(web: WebServer) -> None:
    refused = upload(web, b"m" * 1_000_001, b"p")
    assert (refused.status, refused.json["code"]) == (413, "input-too-large")


# --- live events -----------------------------------------------------------------------------------------------------
def test_a_change_reaches_an_open_stream(web: WebServer) -> None:
    response = web.pool.request(
        "GET",
        web.url + "/v1/events",
        headers={"Authorization": f"Bearer {web.admin}"},
        preload_content=False,
        timeout=20,
    )
    try:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        stream = response.stream(64)
        heard = next(stream)
        wait_for(lambda: web.fleet.changes.subscribers == 1, "the stream subscribed")
        web.fleet.changes.publish("device", "cam-1")
        while b"device:cam-1" not in heard:
            heard += next(stream)
        assert b"event: hello" in heard
        assert b"event: change\ndata: device:cam-1\n\n" in heard
    finally:
        response.close()
    wait_for(lambda: web.fleet.changes.subscribers == 0, "the closed stream was forgotten")


def test_events_need_a_token(web: WebServer) -> None:
    assert web.ask("GET", "/v1/events", token=None).status == 401


async def collected(changes: AsyncIterator[Change], *, keepalive_s: float, life_s: float) -> list[str]:
    return [frame async for frame in frames(changes, keepalive_s=keepalive_s, life_s=life_s)]


def test_a_silent_stream_says_that_it_is_there_and_ends_after_its_life() -> None:
    feed = ChangeFeed()
    heard = asyncio.run(collected(feed.subscribe(), keepalive_s=0.02, life_s=0.1))
    assert heard[0].endswith("event: hello\ndata: \n\n")
    assert heard.count(": still here\n\n") >= 2
    assert feed.subscribers == 0


def test_a_stream_ends_with_the_feed() -> None:
    async def feed_that_closes() -> AsyncIterator[Change]:
        yield Change("rollout", "3")

    heard = asyncio.run(collected(feed_that_closes(), keepalive_s=60, life_s=600))
    assert heard[1:] == ["event: change\ndata: rollout:3\n\n"]


def test_base64_of_the_contract_is_what_the_form_expects(web: WebServer) -> None:
    """A CSR in another alphabet is refused as such, not as a wrong claim."""
    claim = Claim.parse(web.ask("POST", "/v1/claims", {"device": "cam-1", "board": kit.BOARD}).json["claim"])
    request = kit.DeviceKit(DeviceId("cam-1")).request(claim)
    urlsafe = base64.urlsafe_b64encode(b"\xfb\xff" * 50).decode()
    body = msgspec.json.encode(msgspec.structs.replace(request, csr=urlsafe))
    assert web.ask("POST", "/v1/enrol", body, token=None).json["code"] == "csr-refused"


def test_a_fleet_without_anything_answers_with_empty_lists(web: WebServer, web_fleet: Fleet) -> None:
    for path in ("/v1/claims", "/v1/releases", "/v1/rollouts"):
        assert web.ask("GET", path).json == []
    assert web.ask("GET", "/v1/counts").json == {
        "devices": 0, "online": 0, "on_target": 0, "behind": 0, "unassigned": 0, "revoked": 0,
    }  # fmt: skip
    assert web.ask("GET", "/v1/whoami").json == {"fleet": web_fleet.config.fleet, "name": "admin", "role": "admin"}


def test_a_renewal_that_is_not_one_is_refused_without_a_token_being_asked_for(web: WebServer) -> None:
    assert web.ask("GET", "/v1/renew", token=None).json["challenge"]
    empty = web.ask("POST", "/v1/renew", {}, token=None)
    assert (empty.status, empty.json["code"]) == (422, "malformed-message")
    false = web.ask(
        "POST", "/v1/renew", {"certificate": "AAAA", "csr": "AAAA", "challenge": "", "signature": ""}, token=None
    )
    assert (false.status, false.json["code"]) == (403, "certificate-refused")
