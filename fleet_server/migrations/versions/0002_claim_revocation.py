"""Claims can be revoked, and carry the tags of the device that they are for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("claim", schema=None) as batch_op:
        batch_op.add_column(sa.Column("tags", sa.JSON(), nullable=False, server_default=sa.text("'{}'")))
        batch_op.add_column(sa.Column("revoked_at", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("revoked_by", sa.String(length=63), nullable=True))
        batch_op.add_column(sa.Column("revoked_because", sa.String(length=400), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("claim", schema=None) as batch_op:
        batch_op.drop_column("revoked_because")
        batch_op.drop_column("revoked_by")
        batch_op.drop_column("revoked_at")
        batch_op.drop_column("tags")
