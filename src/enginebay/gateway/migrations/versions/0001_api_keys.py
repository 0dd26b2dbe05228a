"""Make the tables of API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("key_id", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("models", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("tier", sa.String(200), nullable=False),
        sa.Column("created_at_unix", sa.Double(), nullable=False),
        sa.Column("expires_at_unix", sa.Double(), nullable=True),
        sa.Column("revoked_at_unix", sa.Double(), nullable=True),
    )
    op.create_table(
        "api_key_secrets",
        sa.Column("secret_sha256", sa.LargeBinary(32), primary_key=True),
        sa.Column("key_id", sa.String(32), sa.ForeignKey("api_keys.key_id"), nullable=False, index=True),
        sa.Column("created_at_unix", sa.Double(), nullable=False),
        sa.Column("expires_at_unix", sa.Double(), nullable=True),
    )
    changes = op.create_table(
        "api_key_changes",
        sa.Column("table_id", sa.Integer(), primary_key=True),
        sa.Column("num_changes", sa.BigInteger(), nullable=False),
    )
    op.bulk_insert(changes, [{"table_id": 1, "num_changes": 0}])


def downgrade() -> None:
    for table in ("api_key_changes", "api_key_secrets", "api_keys"):
        op.drop_table(table)
