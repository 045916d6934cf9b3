"""``fleetctl claim``: a production run from a list to labels, and what becomes of claims."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from fleet_protocol.claim import Claim
from fleet_protocol.identifiers import BoardName
from fleet_server.fleetctl import production, roster
from fleet_server.fleetctl.labels import Label, sheet
from fleet_server.image import sources
from fleet_server.services.claims import MAX_BATCH
from tests.server import kit
from tests.server.ctl_fixtures import *  # noqa: F403 - fixtures
from tests.server.ctl_fixtures import Ctl
from tests.server.web_fixtures import *  # noqa: F403 - fixtures
from tests.server.web_kit import WebServer

LIST = "device,board,tags\ncam-1,raspberry-pi-5,site=berlin;line=2\ncam-2,intel-n100,\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder with a list of two devices."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "devices.csv").write_text(LIST)
    return tmp_path / "run"


def made(web: WebServer) -> list[str]:
    return sorted(each["device_id"] for each in web.ask("GET", "/v1/claims").json)


# --- the main path ---------------------------------------------------------------------------------------------------
def test_a_list_becomes_a_file_of_claims_that_enrol_their_devices(admin: Ctl, web: WebServer, run: Path) -> None:
    said = admin("claim", "create", "--csv", str(run / "devices.csv"), "--out", str(run / "claims.csv"), "--ttl", "30d")
    assert said.code == 0, said.err
    with (run / "claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["device"], row["board"], row["tags"]) for row in rows] == [
        ("cam-1", "raspberry-pi-5", "line=2;site=berlin"), ("cam-2", "intel-n100", ""),
    ]  # fmt: skip
    for row in rows:
        device = kit.DeviceKit(row["device"])  # type: ignore[arg-type]
        web.fleet.enrolment.enrol(device.request(Claim.parse(row["claim"]), board=row["board"]), web.fleet.clock())
    (first, _) = web.ask("GET", "/v1/devices").json["devices"]
    assert first["tags"] == {"site": "berlin", "line": "2"}


def test_a_folder_gets_one_claim_per_device(admin: Ctl, run: Path) -> None:
    said = admin("claim", "create", "--csv", str(run / "devices.csv"), "--out", str(run / "claims"), "--json")
    assert sorted(path.name for path in (run / "claims").iterdir()) == ["cam-1.claim", "cam-2.claim"]
    for told in said.json:
        claim = Claim.parse((run / "claims" / f"{told['device']}.claim").read_text())
        assert claim.claim_id == told["id"]
        assert str(claim) not in said.out + said.err


def test_only_their_owner_reads_the_files(admin: Ctl, run: Path) -> None:
    arguments = ("claim", "create", "--csv", str(run / "devices.csv"), "--labels", str(run / "labels.html"), "--out")
    assert admin(*arguments, str(run / "claims")).code == 0
    (run / "labels.html").unlink()
    assert admin(*arguments, str(run / "claims.csv")).code == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in run.rglob("*") if path.name != "devices.csv"}
    assert modes == {
        "claims": 0o700, "cam-1.claim": 0o600, "cam-2.claim": 0o600, "claims.csv": 0o600, "labels.html": 0o600,
    }  # fmt: skip


def test_a_board_may_be_a_file_beside_the_list(admin: Ctl, web: WebServer, run: Path) -> None:
    own = sources.read_board("generic-aarch64")[1].decode().replace('"generic-aarch64"', '"gate-box"')
    (run / "own.toml").write_text(own)
    (run / "devices.csv").write_text("board,device\nown.toml,cam-1\n")
    assert admin("claim", "create", "--csv", str(run / "devices.csv"), "--out", str(run / "claims")).code == 0
    assert web.ask("GET", "/v1/claims").json[0]["board"] == "gate-box"


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed here")
def test_a_scanner_reads_the_claim_from_the_printed_label(tmp_path: Path) -> None:
    """The page as Chromium paints it, read back by OpenCV's detector."""
    import cv2
    from playwright.sync_api import sync_playwright

    claim = str(Claim("0123456789ab", b"s" * 32, b"c" * 16, b"r" * 16))
    label = Label("cam-1", "raspberry-pi-5", "site=<berlin>", "0123456789ab", "2026-12-01", claim)
    (tmp_path / "labels.html").write_bytes(sheet([label]))
    assert claim not in (tmp_path / "labels.html").read_text()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 800, "height": 400}, device_scale_factor=3)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((tmp_path / "labels.html").as_uri())
        assert "site=<berlin>" in page.inner_text("article")
        page.locator("article svg").screenshot(path=str(tmp_path / "code.png"))
        browser.close()
    assert [url for url in requests if not url.startswith("file:")] == []
    text, _, _ = cv2.QRCodeDetector().detectAndDecode(cv2.imread(str(tmp_path / "code.png")))
    assert text == claim


# --- bad lists -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("content", "names"),
    [
        (LIST + "cam-1,raspberry-pi-5,\n", "line 4: cam-1 stands in line 2 already"),
        (LIST + "cam-3,raspberry-pi-55,\n", "line 4: there is no board raspberry-pi-55"),
        (LIST + "cam-3,missing.toml,\n", "line 4: the board file"),
        (LIST + "Cam/3,raspberry-pi-5,\n", "line 4: a device id is"),
        (LIST + "cam-3,raspberry-pi-5,site\n", "line 4: tags read site=berlin"),
        (LIST + "cam-3,raspberry-pi-5,board=x\n", "line 4: a tag's name is"),
        (LIST + "\n\ncam-3,raspberry-pi-5\n", "line 6: 3 columns wanted, got 2"),
        (LIST + 'cam-3,"raspberry-pi-5,\n', "line 4: not CSV"),
        ("name,board\ncam-1,raspberry-pi-5\n", "line 1: the heading is device,board,tags"),
        ("", "line 1: the heading"),
        ("device,board\n", "1 to 1000 devices"),
        ("device,board\n" + "".join(f"cam-{n},intel-n100\n" for n in range(1001)), "got 1001"),
        ("device,board\ncäm,x\n".encode("latin-1"), "not UTF-8"),
        (b"x" * (roster.MAX_BYTES + 1), "at most 1048576 bytes"),
    ],
    ids=[
        "twice", "unknown board", "no such board file", "bad name", "bad tag", "reserved tag", "short row", "open quote",
        "other heading", "nothing", "no device", "too many", "not UTF-8", "too long",
    ],
)  # fmt: skip
def test_a_wrong_line_is_named_and_nothing_is_made(
    admin: Ctl, web: WebServer, run: Path, content: str | bytes, names: str
) -> None:
    (run / "devices.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    said = admin("claim", "create", "--csv", str(run / "devices.csv"), "--out", str(run / "claims.csv"))
    assert said.code == 1
    assert names in said.err
    assert made(web) == []
    assert [path.name for path in run.iterdir()] == ["devices.csv"]


def test_a_list_from_a_spreadsheet_is_read() -> None:
    rows = roster.parse("\ufeffDevice, Board ,Tags\r\ncam-1, x ,\r\n,,\r\n".encode(), BoardName)
    assert [(row.device, row.board, row.tags) for row in rows] == [("cam-1", "x", {})]


def test_a_list_is_as_long_as_the_servers_batch() -> None:
    assert roster.MAX_ROWS == MAX_BATCH


def test_a_device_that_is_a_member_already_stops_the_whole_list(admin: Ctl, web: WebServer, run: Path) -> None:
    kit.enrol(web.fleet, "cam-2")
    said = admin("claim", "create", "--csv", str(run / "devices.csv"), "--out", str(run / "claims"))
    assert (said.code, "cam-2 is already enrolled" in said.err) == (5, True)
    assert made(web) == ["cam-2"]
    assert [path.name for path in run.iterdir()] == ["devices.csv"]


# --- places ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["claims.csv", "labels.html"])
def test_a_file_that_may_hold_claims_is_never_overwritten(admin: Ctl, web: WebServer, run: Path, name: str) -> None:
    (run / name).write_text("kept")
    said = admin(
        "claim", "create", "--csv", str(run / "devices.csv"), "--out", str(run / "claims.csv"),
        "--labels", str(run / "labels.html"),
    )  # fmt: skip
    assert (said.code, (run / name).read_text(), made(web)) == (5, "kept", [])


def test_a_folder_that_is_not_there_is_noticed_before_a_claim_is_made(admin: Ctl, web: WebServer, run: Path) -> None:
    said = admin("claim", "create", "--csv", str(run / "devices.csv"), "--out", str(run / "no" / "claims.csv"))
    assert said.err.startswith("error [cannot-save]:")
    assert made(web) == []


def test_claims_that_cannot_be_saved_are_revoked(admin: Ctl, web: WebServer, run: Path) -> None:
    """A place that is taken while the server works: a folder with the table's name."""

    class Taken:
        def post(self, path: str, body: dict[str, object]) -> object:
            if path.endswith("/batch"):
                (run / "claims.csv").mkdir()
            answer = web.ask("POST", path, body)
            return answer.json if answer.body else None

    rows = production.read_roster(run / "devices.csv")
    with pytest.raises(production.CannotSave, match="none is left"):
        production.produce(rows, 3600.0, run / "claims.csv", None, Taken())  # type: ignore[arg-type]
    assert {each["state"] for each in web.ask("GET", "/v1/claims").json} == {"revoked"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["create"],
        ["create", "cam-1"],
        ["create", "cam-1", "--csv", "x.csv"],
        ["create", "--csv", "x.csv"],
        ["create", "--csv", "x.csv", "--out", "y", "--board", "z"],
        ["create", "cam-1", "--board", "intel-n100", "--labels", "x.html"],
        ["revoke", "0123456789ab"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_go_together_are_a_usage_error(ctl: Ctl, arguments: list[str]) -> None:
    assert ctl("claim", *arguments).code == 2


# --- list and revoke -------------------------------------------------------------------------------------------------
def test_what_became_of_each_claim_is_listed(admin: Ctl, web: WebServer) -> None:
    kit.enrol(web.fleet, "cam-1")
    for name in ("cam-2", "cam-3"):
        assert admin("claim", "create", name, "--board", kit.BOARD).code == 0
    lost = admin("claim", "list", "--device", "cam-2", "--json").json[0]["id"]
    assert admin("claim", "revoke", lost, "--reason", "card lost", "--yes").code == 0
    lines = {line.split()[1]: line for line in admin("claim", "list").out.splitlines()}
    assert "by keys" in lines["cam-1"]
    assert "by admin: card lost" in lines["cam-2"]
    assert "until" in lines["cam-3"]
    assert [each["device_id"] for each in admin("claim", "list", "--state", "open", "--json").json] == ["cam-3"]
    assert "claim.revoke" in admin("audit", "list").out


def test_revoking_a_used_or_unknown_claim_is_refused(admin: Ctl, web: WebServer) -> None:
    kit.enrol(web.fleet, "cam-1")
    used = web.ask("GET", "/v1/claims").json[0]["id"]
    assert admin("claim", "revoke", used, "--yes").code == 5
    assert admin("claim", "revoke", "../tokens/1", "--yes").code == 3
