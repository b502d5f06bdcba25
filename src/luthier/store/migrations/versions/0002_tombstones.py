"""Tombstones: records that are to be forgotten; append-only."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "tombstones",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
        ),
        sa.Column("record", sa.String(64), nullable=False, index=True),
        sa.Column("within", sa.String(64), nullable=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False, index=True),
        sa.Column("origins", sa.JSON, nullable=False),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER tombstones_no_{verb.lower()} BEFORE {verb} ON tombstones "
                "BEGIN SELECT RAISE(ABORT, 'tombstones is append-only'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER tombstones_append_only BEFORE UPDATE OR DELETE ON tombstones "
            "FOR EACH ROW EXECUTE FUNCTION luthier_append_only()"
        )
