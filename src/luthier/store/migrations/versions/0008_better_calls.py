"""What should have been called, of an answer that people corrected."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("feedback", sa.Column("calls", sa.JSON, nullable=True))
