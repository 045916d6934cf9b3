"""Claims over HTTPS: rights, batches, revocation, and the page that shows them."""

from __future__ import annotations

import pytest

from tests.server import kit
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import WebServer


def batch(*names: str) -> dict[str, object]:
    return {"devices": [{"device": name, "board": kit.BOARD, "tags": {"site": "berlin"}} for name in names]}


def test_a_batch_answers_with_the_claims_in_its_order(web: WebServer) -> None:
    made = web.ask("POST", "/v1/claims/batch", batch("cam-2", "cam-1"))
    assert made.status == 201
    assert [each["device"] for each in made.json] == ["cam-2", "cam-1"]
    listed = web.ask("GET", "/v1/claims").json
    assert {each["id"] for each in listed} == {each["id"] for each in made.json}
    assert all(each["tags"] == {"site": "berlin"} for each in listed)
    assert all(each["claim"] not in str(listed) for each in made.json)


def test_a_batch_of_a_thousand_devices_fits_into_one_request(web: WebServer) -> None:
    made = web.ask("POST", "/v1/claims/batch", batch(*(f"camera-in-a-hall-{number:04d}" for number in range(1000))))
    assert (made.status, len(made.json)) == (201, 1000)


@pytest.mark.parametrize("name", ["A/#", "cam-1"])
def test_a_batch_with_a_bad_or_repeated_name_makes_nothing(web: WebServer, name: str) -> None:
    refused = web.ask("POST", "/v1/claims/batch", batch("cam-1", name))
    assert refused.status == 422
    assert web.ask("GET", "/v1/claims").json == []


def test_claims_are_filtered_by_state_and_device(web: WebServer) -> None:
    made = web.ask("POST", "/v1/claims/batch", batch("cam-1", "cam-2")).json
    assert web.ask("POST", f"/v1/claims/{made[0]['id']}/revoke", {"reason": "lost"}).status == 204
    assert [each["device_id"] for each in web.ask("GET", "/v1/claims?state=open").json] == ["cam-2"]
    assert [each["device_id"] for each in web.ask("GET", "/v1/claims?device=cam-1").json] == ["cam-1"]
    assert web.ask("GET", "/v1/claims?state=lost").status == 422


def test_a_viewer_reads_claims_and_neither_makes_nor_revokes_them(web: WebServer) -> None:
    (made,) = web.ask("POST", "/v1/claims/batch", batch("cam-1")).json
    eyes = web.token("eyes", "viewer")
    assert web.ask("GET", "/v1/claims", token=eyes).status == 200
    assert web.ask("GET", "/claims", token=eyes).status == 200
    for path in (f"/v1/claims/{made['id']}/revoke", "/v1/claims/batch"):
        assert web.ask("POST", path, {"reason": "x"}, token=eyes).status == 403
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert web.ask("POST", f"/claims/{made['id']}/revoke", b"reason=x", token=eyes, headers=form).status == 403
    assert web.ask("GET", "/v1/claims").json[0]["state"] == "open"


def test_the_page_tells_who_when_and_what_became_of_each_claim(web: WebServer) -> None:
    kit.enrol(web.fleet, "cam-1")
    made = web.ask("POST", "/v1/claims/batch", batch("cam-2", "cam-3")).json
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    moved = web.ask("POST", f"/claims/{made[0]['id']}/revoke", b"reason=%3Cb%3Elost", headers=form)
    assert (moved.status, moved.headers["location"]) == (303, "/claims")
    text = web.ask("GET", "/claims").text
    for told in ("by tester", "by keys", "by admin: &lt;b&gt;lost", "Can be redeemed until", "site=berlin"):
        assert told in text
    assert made[1]["claim"] not in text
    assert "No claim is expired" in web.ask("GET", "/claims?state=expired").text


def test_a_fleet_without_claims_is_told_the_commands(web: WebServer) -> None:
    text = web.ask("GET", "/claims").text
    assert "fleetctl claim create cam-1" in text
    assert "--csv devices.csv" in text
