"""The store hands Alembic an open transaction, so that a migration happens whole or not at all."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
context.run_migrations()
