"""What the supervised Mosquitto is told: its configuration and its access list. Text only; nothing is started here.

Every limit is set, with its reason: the broker's defaults lose messages silently.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Final

from fleet_protocol import envelope, metadata_bundle, topics
from fleet_protocol.identifiers import DeviceId
from fleet_server.config import ServerConfig, StateLayout

LARGEST_MESSAGE_BYTES: Final = max(envelope.MESSAGE_BYTES + envelope.HEADER_BYTES, metadata_bundle.MAX_PACKED_BYTES)

_TEMPLATE: Final = """\
# Written by fleet-server at each start; edits are lost.
per_listener_settings false
user {user}
listener {port} {address}
# Mutual TLS: who connects is what the fleet CA wrote into the certificate, nothing that a client says of itself.
cafile {ca}
certfile {certificate}
keyfile {key}
tls_version tlsv1.2
require_certificate true
allow_anonymous false
use_identity_as_username true
# Without this a second device can take over a session, and its queued messages, by choosing its client id.
use_username_as_clientid true
acl_file {acl}
# The largest message of the protocol (the metadata bundle) and its packet's header; larger ones end the connection.
max_packet_size {largest_packet}
# Debian's default queue of 1,000 kept 2,014 of 100,000 reports, silently. The server's own inbox is the one that fills:
# 100,000 reports of 300 bytes are 30 MB, and five minutes of a stopped server at 300 reports a second.
max_queued_messages 100000
# By bytes nothing is dropped: a limit of 4 MB kept 31 of 400 chunks.
max_queued_bytes 0
# In flight: chunks come one window of at most 32 at a time, the server's inbox in batches of 2,000.
max_inflight_messages 1000
max_inflight_bytes 0
memory_limit 0
max_keepalive 600
max_topic_alias 0
# 20,000 devices on one machine; beyond that a broker of its own.
max_connections 20000
set_tcp_nodelay true
# A device away for longer than its assignment is valid starts afresh.
persistent_client_expiration 14d
# Reports that the server has not yet acknowledged survive a restart. Not on every change: that rewrites the whole file
# (15.6 s against 0.1 s for 400 chunks). The server publishes again what a crash loses (the broker is not the store).
persistence true
persistence_location {directory}/
persistence_file mosquitto.db
autosave_interval 30
autosave_on_changes false
retain_available true
upgrade_outgoing_qos false
sys_interval 10
connection_messages false
log_dest stderr
log_type error
log_type warning
log_type notice
"""


def configuration(config: ServerConfig, layout: StateLayout, user: str) -> str:
    """The text of ``mosquitto.conf``; ``user``: who the broker runs as, where the server runs as root."""
    return _TEMPLATE.format(
        user=user,
        port=config.broker_port,
        address=config.broker_listen,
        ca=layout.ca_certificate,
        certificate=layout.tls_certificate,
        key=layout.tls_key,
        acl=acl_path(layout),
        largest_packet=LARGEST_MESSAGE_BYTES + 4096,
        directory=layout.broker,
    )


def access_list(denied: Collection[DeviceId]) -> str:
    """The broker's ACL: the contract's rules, and nothing at all for ``denied`` devices."""
    return topics.access_rules() + "".join(f"\nuser {device}\ntopic deny #\n" for device in sorted(denied))


def acl_path(layout: StateLayout) -> Path:
    """Where the ACL lies."""
    return layout.broker / "access.acl"
