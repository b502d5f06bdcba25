"""Traffic and feedback: people's words, which may be removed again."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "traffic",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(128), nullable=False, unique=True),
        sa.Column("name", sa.String(256), nullable=False, index=True),
        sa.Column("release", sa.String(160), nullable=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(64), nullable=False),
        sa.Column("user_sha256", sa.String(64), nullable=True, index=True),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("answers", sa.JSON, nullable=False),
        sa.Column("probability", sa.Float, nullable=True),
        sa.Column("masked", sa.Integer, nullable=False),
        sa.Column("time_s", sa.Float, nullable=False, index=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "feedback",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("exchange", sa.String(128), nullable=False, index=True),
        sa.Column("choice", sa.Integer, nullable=False),
        sa.Column("rating", sa.Float, nullable=True),
        sa.Column("correction", sa.Text, nullable=True),
        sa.Column("comment", sa.Text, nullable=True),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
