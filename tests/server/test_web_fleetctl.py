"""``fleetctl`` against a real server: answers, exit codes, contexts, help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fleet_protocol.claim import Claim
from fleet_protocol.errors import BadSignature
from fleet_protocol.identifiers import DeviceId
from fleet_server.ceremony import Founding
from fleet_server.fleetctl.signing import check_own
from fleet_server.release_signing import load_signer
from tests.server import kit
from tests.server.ctl_fixtures import *  # noqa: F403 - fixtures
from tests.server.ctl_fixtures import TOKEN, Ctl
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import INSTALL, Voice, WebServer


def enrolled(web: WebServer, *names: str) -> list[Voice]:
    voices = []
    for name in names:
        kit.enrol(web.fleet, name)
        voices.append(Voice(web.fleet, DeviceId(name)))
        voices[-1].online()
        voices[-1].health()
    return voices


# --- the main path ---------------------------------------------------------------------------------------------------
def test_an_operators_day(admin: Ctl, web: WebServer, web_founding: Founding, tmp_path: Path) -> None:
    """claim, release, preview, create, watch, why, audit: what the guide's first five minutes say."""
    claim = admin("claim", "create", "cam-9", "--board", kit.BOARD, "--ttl", "1h")
    assert Claim.parse(claim.out)
    assert "until" in claim.err
    (voice,) = enrolled(web, "cam-1")
    package = tmp_path / "model.efpkg"
    kit.write_package(package)
    released = admin("release", "create", str(package), "--keys", str(web_founding.offline), "--json")
    assert released.code == 0, released.err
    manifest = released.json["variants"][0]["manifest_sha256"]
    assert "signed orientation 1.0.0 with 2 keys" in released.err

    preview = admin("rollout", "preview", "orientation@1.0.0", "--waves", "100%")
    assert "cam-1" in preview.out
    created = admin("rollout", "create", "orientation@1.0.0", "--waves", "1", "--bake", "0", "--start", "--json")
    assert created.json["state"] == "RUNNING"
    web.fleet.rollouts.tick(web.fleet.clock())
    voice.deployment(manifest, *INSTALL, assignment=1, served=manifest)
    voice.health(manifest, assignment=1)
    for _ in range(4):
        web.fleet.rollouts.tick(web.fleet.clock())
    watched = admin("rollout", "watch", str(created.json["id"]), "--timeout", "30s")
    assert watched.code == 0, watched.err
    assert "1 of 1 serving" in watched.out
    assert "up-to-date" in admin("device", "why", "cam-1").out
    listed = admin("device", "list", "--json").json
    assert [(each["id"], each["online"]) for each in listed] == [("cam-1", True)]
    assert "orientation 1.0.0" in admin("device", "list").out
    assert "rollout.start" in admin("audit", "list").out


def test_a_claim_with_replace_is_for_a_device_that_is_a_member(admin: Ctl, web: WebServer) -> None:
    refused = admin("claim", "create", "cam-1", "--board", kit.BOARD, "--replace")
    assert (refused.code, refused.err.split(":")[0]) == (3, "error [not-found]")
    old = kit.enrol(web.fleet, "cam-1")
    claim = Claim.parse(admin("claim", "create", "cam-1", "--board", kit.BOARD, "--replace").out)
    web.fleet.enrolment.enrol(kit.DeviceKit(old.id).request(claim), web.fleet.clock())
    assert "device.replace" in admin("audit", "list").out


def test_watching_a_rollout_that_is_aborted_ends_with_six(
    admin: Ctl, web: WebServer, web_founding: Founding, tmp_path: Path
) -> None:
    enrolled(web, "cam-1")
    made = kit.release(web.fleet, web_founding, tmp_path)
    rollout = admin("rollout", "create", str(made.id), "--waves", "1", "--start", "--json").json["id"]
    stopper = threading.Timer(1.0, web.fleet.rollouts.abort, (rollout, "tester", "wrong labels"))
    stopper.start()
    watched = admin("rollout", "watch", str(rollout), "--timeout", "30s", "--json")
    stopper.join()
    assert watched.code == 6
    assert "rollout-not-finished" in watched.err
    states = [json.loads(line)["state"] for line in watched.out.splitlines()]
    assert states == ["RUNNING", "ABORTED"]


def test_a_wait_that_is_too_long_ends_with_124(
    admin: Ctl, web: WebServer, web_founding: Founding, tmp_path: Path
) -> None:
    enrolled(web, "cam-1")
    made = kit.release(web.fleet, web_founding, tmp_path)
    rollout = admin("rollout", "create", str(made.id), "--waves", "1", "--start", "--json").json["id"]
    assert admin("rollout", "watch", str(rollout), "--timeout", "0").code == 124


def test_every_verb_of_a_rollout_is_a_command(
    admin: Ctl, web: WebServer, web_founding: Founding, tmp_path: Path
) -> None:
    enrolled(web, "cam-1", "cam-2")
    made = kit.release(web.fleet, web_founding, tmp_path)
    rollout = str(admin("rollout", "create", str(made.id), "--waves", "1,100%", "--json").json["id"])
    for verb, state in (("start", "RUNNING"), ("pause", "PAUSED"), ("resume", "RUNNING")):
        assert admin("rollout", verb, rollout, "--reason", "test", "--json").json["state"] == state
    web.fleet.rollouts.tick(web.fleet.clock())
    assert admin("rollout", "promote", rollout, "--json").json["waves"][0]["state"] == "PASSED"
    assert admin("rollout", "abort", rollout).code == 2  # nobody can be asked, and --yes was not given
    assert admin("rollout", "abort", rollout, "--yes", "--json").json["state"] == "ABORTED"
    assert admin("rollout", "undo", rollout, "--yes", "--json").json["state"] == "RUNNING"
    assert "canary" in admin("rollout", "get", rollout).out


def test_tokens_are_made_listed_and_revoked(admin: Ctl, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    made = admin("token", "create", "guest", "--role", "viewer", "--ttl", "1d")
    secret = made.out.strip()
    assert secret.startswith("eft_")
    row = next(each for each in admin("token", "list", "--json").json if each["name"] == "guest")
    monkeypatch.setenv("EDGE_TOKEN", secret)
    assert admin("device", "list").code == 0
    refused = admin("claim", "create", "cam-1", "--board", kit.BOARD)
    assert refused.code == 4
    assert refused.err.startswith("error [not-allowed]: claims.write needs the role operator")
    monkeypatch.setenv("EDGE_TOKEN", web.admin)
    assert admin("token", "revoke", str(row["id"]), "--yes").code == 0
    monkeypatch.setenv("EDGE_TOKEN", secret)
    assert admin("device", "list").err.startswith("error [not-authenticated]:")


def test_tags_change_one_by_one(admin: Ctl, web: WebServer) -> None:
    enrolled(web, "cam-1")
    assert admin("device", "set", "cam-1", "site=berlin", "line=2").code == 0
    said = admin("device", "set", "cam-1", "site=lyon", "line-", "--json")
    assert said.json["device"]["tags"] == {"site": "lyon"}
    assert "lyon" in admin("device", "get", "cam-1").out
    assert admin("device", "set", "cam-1", "=x").code == 1


def test_revoking_asks_or_needs_yes(admin: Ctl, web: WebServer) -> None:
    enrolled(web, "cam-1")
    assert admin("device", "revoke", "cam-1").code == 2
    assert admin("device", "revoke", "cam-1", "--reason", "stolen", "--yes").code == 0
    assert admin("device", "get", "cam-1", "--json").json["device"]["presence"] == "revoked"


# --- exit codes ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "code", "start"),
    [
        (("device", "get", "nobody"), 3, "error [not-found]:"),
        (("release", "get", "none@1"), 3, "error [not-found]:"),
        (("rollout", "watch", "77"), 3, "error [not-found]:"),
        (("token", "create", "admin", "--role", "viewer"), 5, "error [conflict]:"),
        (("claim", "create", "Bad/Name", "--board", "b"), 1, "error [malformed-identifier]:"),
        (("rollout", "create", "1", "--waves", "200%"), 1, "error [malformed-policy]:"),
        (("claim", "create", "x", "--board", "b", "--ttl", "soon"), 1, "error [malformed-input]:"),
        (("nonsense",), 2, "Usage:"),
        (("device", "get"), 2, "Usage:"),
        (("token", "create", "x", "--role", "root"), 2, "Usage:"),
    ],
)
def test_exit_codes_and_one_line_of_reason(admin: Ctl, arguments: tuple[str, ...], code: int, start: str) -> None:
    said = admin(*arguments)
    assert said.code == code
    assert said.err.startswith(start)
    assert said.out == ""
    assert code == 2 or len(said.err.splitlines()) == 1


def test_a_server_that_is_not_there(
    ctl: Ctl, web_fleet: object, web_founding: Founding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_TOKEN", TOKEN)
    said = ctl("--server", "https://127.0.0.1:9", "--ca", str(web_founding.state / "ca.pem"), "device", "list")
    assert (said.code, said.err[:28]) == (1, "error [server-unreachable]: ")
    assert TOKEN not in said.err


def test_a_server_of_another_fleet_never_gets_the_token(
    ctl: Ctl, web: WebServer, founded: Founding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CA of ``founded`` is another fleet's."""
    monkeypatch.setenv("EDGE_TOKEN", web.admin)
    said = ctl("--server", web.url, "--ca", str(founded.state / "ca.pem"), "device", "list")
    assert (said.code, said.err.partition(":")[0]) == (1, "error [wrong-pin]")


def test_without_a_server_it_says_what_to_do(ctl: Ctl) -> None:
    said = ctl("device", "list")
    assert said.code == 4
    assert "fleetctl context add" in said.err


# --- release keys ----------------------------------------------------------------------------------------------------
def test_the_keys_are_not_lent_to_a_list_that_they_did_not_sign(web_fleet: Any, web_founding: Founding) -> None:
    """A server in wrong hands could slip a release of its own into the list that it hands out to be signed again."""
    signers = kit.release_signers(web_founding)
    current = web_fleet.tuf.models()
    check_own(current, signers)
    raised = json.loads(current)
    raised["signed"]["version"] += 1
    with pytest.raises(BadSignature):
        check_own(json.dumps(raised).encode(), signers)
    with pytest.raises(BadSignature):
        check_own(current, [load_signer(web_founding.offline / "root-1.pem")])
    with pytest.raises(BadSignature):
        check_own(b"{}", signers)


def test_one_key_of_two_does_not_make_a_release(admin: Ctl, web_founding: Founding, tmp_path: Path) -> None:
    kit.write_package(tmp_path / "model.efpkg")
    key = str(web_founding.offline / "models-ci.pem")
    said = admin("release", "create", str(tmp_path / "model.efpkg"), "--key", key)
    assert said.code == 1
    assert said.err.splitlines()[-1].startswith("error [untrusted-metadata]:")
    assert admin("release", "list", "--json").json == []


# --- the overlay -----------------------------------------------------------------------------------------------------
def test_an_overlay_with_a_new_claim(admin: Ctl, web: WebServer, tmp_path: Path) -> None:
    import tarfile

    out = tmp_path / "overlay.tar"
    made = admin("image", "overlay", "--board", "raspberry-pi-5", "--new-claim", "cam-1", "--out", str(out), "--json")
    assert made.json["claim"] is True
    with tarfile.open(out) as archive:
        member = archive.extractfile("boot/firmware/edgefleet/claim")
        assert member is not None
        claim = Claim.parse(member.read().decode())
    claim.check_ca(web.fleet.ca.certificate_der)
    assert str(claim) not in made.out + made.err
    assert [each["device_id"] for each in admin("claim", "list", "--json").json] == ["cam-1"]


def test_an_overlay_with_another_fleets_claim_is_refused(admin: Ctl, tmp_path: Path) -> None:
    (tmp_path / "claim").write_text(str(Claim("0123456789ab", b"s" * 32, b"c" * 16, b"r" * 16)))
    arguments = ("image", "overlay", "--board", "raspberry-pi-5", "--claim", str(tmp_path / "claim"))
    said = admin(*arguments, "--out", str(tmp_path / "o.tar"))
    assert said.err.startswith("error [wrong-pin]:")
    assert not (tmp_path / "o.tar").exists()


def test_a_reader_that_leaves_early_is_not_told_a_traceback(web: WebServer) -> None:
    """``fleetctl … | head -1``."""
    enrolled(web, *(f"cam-{number}" for number in range(3)))
    environment = os.environ | {
        "EDGE_SERVER": web.url, "EDGE_TOKEN": web.admin, "EDGE_CA": str(web.fleet.layout.ca_certificate),
    }  # fmt: skip
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "fleet_server.fleetctl.cli", "device", "list"]
    done = subprocess.run(command, env=environment, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_ends_with_130(admin: Ctl, web: WebServer, web_founding: Founding, tmp_path: Path) -> None:
    import signal

    enrolled(web, "cam-1")
    made = kit.release(web.fleet, web_founding, tmp_path)
    rollout = admin("rollout", "create", str(made.id), "--waves", "1", "--start", "--json").json["id"]
    command = [sys.executable, "-m", "fleet_server.fleetctl.cli", "rollout", "watch", str(rollout)]
    watching_process = subprocess.Popen(
        command, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert watching_process.stdout is not None
        assert "RUNNING" in watching_process.stdout.readline()
        watching_process.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert watching_process.wait(timeout=20) == 130
        assert time.monotonic() - began < 20
    finally:
        watching_process.kill()
        watching_process.communicate()
