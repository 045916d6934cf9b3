"""From the command line's flags to a connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from fleet_server.fleetctl.target import Contexts, Flags, Target, config_path, resolve

if TYPE_CHECKING:
    from fleet_server.fleetctl.connection import Connection


def contexts() -> Contexts:
    """The person's contexts."""
    return Contexts.load(config_path(os.environ))


def target() -> Target:
    """The server and token of this invocation; raises NotAuthenticated where a part is missing."""
    flags = click.get_current_context().find_root().obj or Flags()
    return resolve(flags, os.environ, contexts())


def connect() -> Connection:
    """A connection to the server of this invocation, closed when its command ends."""
    from fleet_server.fleetctl.connection import Connection  # TLS and HTTP: not needed for --help

    connection = Connection(target())
    click.get_current_context().call_on_close(connection.close)
    return connection
