"""Alembic's entry: migrations run on the connection that Database hands over, inside its transaction."""

from alembic import context

from luthier.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
