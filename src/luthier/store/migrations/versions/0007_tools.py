"""The functions that had a part in what a served model was asked and answered."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("traffic", sa.Column("tools", sa.JSON, nullable=True))
