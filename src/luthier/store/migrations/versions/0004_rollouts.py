"""Rollouts: which version of a name answers, one line for each step; append-only."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "rollouts",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("step", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("stable", sa.String(160), nullable=False),
        sa.Column("candidate", sa.String(160), nullable=False),
        sa.Column("detail", sa.JSON, nullable=False),
        sa.Column("by", sa.String(256), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER rollouts_no_{verb.lower()} BEFORE {verb} ON rollouts "
                "BEGIN SELECT RAISE(ABORT, 'rollouts is append-only'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER rollouts_append_only BEFORE UPDATE OR DELETE ON rollouts "
            "FOR EACH ROW EXECUTE FUNCTION luthier_append_only()"
        )
