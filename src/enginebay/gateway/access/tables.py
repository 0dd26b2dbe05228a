"""The tables of API keys. A key keeps its id when its secret is rotated, and with it limits, budget and costs."""

from __future__ import annotations

import sqlalchemy as sa

from enginebay.gateway.database import metadata

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("scopes", sa.JSON(), nullable=False),
    sa.Column("models", sa.JSON(none_as_null=True), nullable=True),  # aliases; null is all of them
    sa.Column("tier", sa.String(200), nullable=False),  # of gateway.limits.tiers
    sa.Column("created_at_unix", sa.Double(), nullable=False),
    sa.Column("expires_at_unix", sa.Double(), nullable=True),
    sa.Column("revoked_at_unix", sa.Double(), nullable=True),
)

api_key_secrets = sa.Table(
    "api_key_secrets",
    metadata,
    sa.Column("secret_sha256", sa.LargeBinary(32), primary_key=True),
    sa.Column("key_id", sa.String(32), sa.ForeignKey("api_keys.key_id"), nullable=False, index=True),
    sa.Column("created_at_unix", sa.Double(), nullable=False),
    sa.Column("expires_at_unix", sa.Double(), nullable=True),  # set when another secret takes over
)

api_key_changes = sa.Table(
    "api_key_changes",
    metadata,
    sa.Column("table_id", sa.Integer(), primary_key=True),  # always 1
    sa.Column("num_changes", sa.BigInteger(), nullable=False),  # raised by every change of the other two
)
