"""Founding a fleet: which keys are made, where they go, and that it happens once."""

from __future__ import annotations

import re
import ssl
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from cryptography import x509
from sqlalchemy import select
from tuf.api.metadata import Metadata, Root, Targets

from fleet_protocol.errors import Conflict, MalformedConfig, NotFound
from fleet_server.adapters.server_certificates import renew_if_due
from fleet_server.app import open_fleet
from fleet_server.ceremony import OFFLINE_FILES, Founding, found_fleet
from fleet_server.checkup import check
from fleet_server.config import ServerConfig, StateLayout, read_config
from fleet_server.db import migrate
from fleet_server.db.models import Base, Token
from fleet_server.db.session import open_registry
from fleet_server.fleet import Fleet
from fleet_server.services.tokens import digest_of_secret
from tests.server.kit import NOW, SteppedClock

CONFIG = ServerConfig(fleet="acme", hosts=("localhost",))
DAY_S = 86_400.0


def files_under(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


def test_offline_private_keys_are_in_the_offline_directory_and_nowhere_in_the_state(founding: Founding) -> None:
    state = b"\n".join(path.read_bytes() for path in files_under(founding.state))
    for name in OFFLINE_FILES:
        pem = (founding.offline / f"{name}.pem").read_text()
        body = "".join(pem.splitlines()[1:-1])
        assert len(body) > 40
        assert body.encode() not in state


def test_every_secret_is_readable_by_its_owner_only(founding: Founding) -> None:
    layout = StateLayout(founding.state)
    secrets = [path for path in files_under(layout.keys) if path.suffix != ".pem" or "PRIVATE" in path.read_text()]
    assert len(secrets) == 7
    for path in [*secrets, *founding.offline_files, layout.config]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for directory in (founding.state, layout.keys, founding.offline):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_thresholds_delegation_and_expiry_are_as_designed(fleet: Fleet) -> None:
    files = fleet.tuf.files()
    root = Metadata[Root].from_bytes(files["1.root.json"]).signed
    targets = Metadata[Targets].from_bytes(files["1.targets.json"]).signed
    assert {name: (role.threshold, len(role.keyids)) for name, role in root.roles.items()} == {
        "root": (2, 3), "targets": (2, 3), "snapshot": (1, 1), "timestamp": (1, 1),
    }  # fmt: skip
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    models = targets.delegations.roles["models"]
    assert (models.threshold, len(models.keyids), models.paths) == (2, 2, ["models/*/*"])
    days = {name: round((at - NOW) / DAY_S) for name, at in fleet.tuf.expiries().items()}
    assert days == {"root": 365, "targets": 180, "models": 90, "snapshot": 7, "timestamp": 1}


def test_the_offline_keys_authorise_the_servers_director_key(fleet: Fleet) -> None:
    director = fleet.tuf.director_keys()
    assert [key.keyid for key in director.keys] == [fleet.assignments.director_keyid]


def test_the_admin_token_is_kept_as_a_digest_only(founding: Founding, fleet: Fleet) -> None:
    assert re.fullmatch(r"eft_[A-Za-z0-9_-]{43}", founding.admin_token)
    with fleet.readers() as session:
        row = session.scalars(select(Token)).one()
    assert (row.name, row.role) == ("admin", "admin")
    assert row.token_sha256 == digest_of_secret(founding.admin_token)
    assert founding.admin_token.encode() not in b"".join(path.read_bytes() for path in files_under(founding.state))


@pytest.mark.parametrize(
    ("state", "offline"),
    [
        ("state", "state/offline"),
        ("offline/state", "offline"),
        ("same", "same"),
        ("used", "offline"),
        ("state", "used"),
    ],
)
def test_a_ceremony_refuses_a_place_that_is_used_or_would_mix_online_with_offline(
    tmp_path: Path, state: str, offline: str
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("somebody's")
    before = files_under(tmp_path)
    with pytest.raises(Conflict):
        found_fleet(tmp_path / state, tmp_path / offline, CONFIG, NOW)
    assert files_under(tmp_path) == before


def test_a_fleet_is_founded_once(founding: Founding, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        found_fleet(founding.state, tmp_path / "again", CONFIG, NOW)
    assert not (tmp_path / "again").exists()


def test_a_ceremony_that_fails_leaves_no_half_founded_server(tmp_path: Path) -> None:
    (tmp_path / "stick").write_text("not a directory")
    with pytest.raises(Conflict, match="stick"):
        found_fleet(tmp_path / "state", tmp_path / "stick" / "keys", CONFIG, NOW)
    assert files_under(tmp_path) == [tmp_path / "stick"]
    assert not (tmp_path / "state").exists()


def test_opening_what_is_no_server_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="fleet-server init"):
        open_fleet(tmp_path, SteppedClock())


@pytest.mark.parametrize(
    "text",
    [
        'fleet = "a"',
        'fleet = "A!"\nhosts = ["x"]',
        'fleet = "a"\nhosts = ["x"]\nporty = 1',
        "fleet =",
        'fleet = "a"\nhosts = ["bäd host"]',
        'fleet = "a"\nhosts = []',
        'fleet = "a"\nhosts = ["x"]\nlisten = "x"',
    ],
)
def test_a_configuration_with_missing_unknown_or_malformed_keys_is_refused(text: str) -> None:
    with pytest.raises(MalformedConfig):
        ServerConfig.parse(text)


def test_a_configuration_survives_being_written_and_read(founding: Founding) -> None:
    config = read_config(StateLayout(founding.state))
    assert ServerConfig.parse(config.encode()) == config


def test_migrations_make_exactly_the_tables_of_the_models_and_go_down_again(tmp_path: Path) -> None:
    registry = open_registry(f"sqlite:///{tmp_path / 'registry.db'}")
    try:
        assert not migrate.is_current(registry.engine)
        migrate.upgrade(registry.engine)
        assert migrate.is_current(registry.engine)
        with registry.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        migrate.downgrade(registry.engine, "base")
        with registry.engine.connect() as connection:
            left = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars().all()
        assert left == ["alembic_version"]
    finally:
        registry.close()


def test_an_older_registry_is_not_opened_but_migrated(founding: Founding) -> None:
    registry = open_registry(f"sqlite:///{StateLayout(founding.state).database}")
    migrate.downgrade(registry.engine, "base")
    registry.close()
    with pytest.raises(Conflict, match="fleet-server migrate"):
        open_fleet(founding.state, SteppedClock())


def test_a_new_server_has_nothing_wrong_and_an_old_one_says_what_runs_out(founding: Founding) -> None:
    assert check(founding.state, NOW) == []
    later = {(each.subject, each.level) for each in check(founding.state, NOW + 80 * DAY_S)}
    assert {("models", "warning"), ("snapshot", "error"), ("timestamp", "error")} <= later
    assert ("root", "warning") not in later


def test_a_key_that_others_can_read_is_found(founding: Founding) -> None:
    layout = StateLayout(founding.state)
    layout.key_encryption_key.chmod(0o644)
    layout.timestamp_key.unlink()
    found = {each.subject: each.sentence for each in check(founding.state, NOW)}
    assert "chmod 600" in found["kek"]
    assert "missing" in found["timestamp.pem"]


def tls_names(layout: StateLayout) -> list[str]:
    certificate = x509.load_pem_x509_certificate(layout.tls_certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_the_servers_certificates_are_renewed_when_they_run_out_and_not_before(fleet: Fleet) -> None:
    hosts, layout = fleet.config.hosts, fleet.layout
    assert renew_if_due(layout, fleet.ca, hosts, NOW) == []
    late = NOW + 800 * DAY_S
    assert renew_if_due(layout, fleet.ca, hosts, late) == ["TLS", "broker client"]
    assert renew_if_due(layout, fleet.ca, hosts, late) == []


def test_a_new_host_name_gets_a_new_certificate(fleet: Fleet) -> None:
    assert renew_if_due(fleet.layout, fleet.ca, ("fleet.example", "10.0.0.5"), NOW) == ["TLS"]
    assert tls_names(fleet.layout) == ["fleet.example", "10.0.0.5", "localhost", "127.0.0.1"]
    assert stat.S_IMODE(fleet.layout.tls_key.stat().st_mode) == 0o600


def test_a_key_and_certificate_that_do_not_fit_are_replaced_together(fleet: Fleet) -> None:
    layout = fleet.layout
    layout.tls_key.write_bytes(layout.mqtt_key.read_bytes())
    layout.mqtt_certificate.write_bytes(b"half a fi")
    assert renew_if_due(layout, fleet.ca, fleet.config.hosts, NOW) == ["TLS", "broker client"]
    for certificate, key in ((layout.tls_certificate, layout.tls_key), (layout.mqtt_certificate, layout.mqtt_key)):
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
