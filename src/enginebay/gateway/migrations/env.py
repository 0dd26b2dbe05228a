"""Run by alembic, on the connection and in the transaction that `open_database` gives it."""

from __future__ import annotations

from alembic import context

from enginebay.gateway.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
