"""How Alembic runs here: on the connection that the store hands over, never on its own."""

from alembic import context

from appliance.migrations.tables import metadata

connection = context.config.attributes["connection"]
# Batch mode because SQLite cannot alter a column; transactional because the store's connections
# open real transactions before DDL.
context.configure(
    connection=connection,
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
