"""The registry's history: Alembic migrations, applied by :mod:`fleet_server.db.migrate`."""
