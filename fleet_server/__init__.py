"""Registry, signing, encryption, rollouts, telemetry, API, dashboard and ``fleetctl``."""
