"""What a server needs beside homes: who may do what, jobs, budgets, rules, and what people put into a project."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "organisations",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float, nullable=True),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "organisation", sa.String(32), sa.ForeignKey("organisations.id"), nullable=False, index=True
        ),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float, nullable=True),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("name", sa.String(256), nullable=False),
        sa.Column("issuer", sa.String(256), nullable=True),
        sa.Column("subject", sa.String(256), nullable=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float, nullable=True),
        sa.UniqueConstraint("issuer", "subject", name="users_issuer_subject"),
    )
    op.create_table(
        "grants",
        sa.Column("scope", sa.String(32), primary_key=True),
        sa.Column("user", sa.String(32), sa.ForeignKey("users.id"), primary_key=True),
        sa.Column("role", sa.String(16), primary_key=True),
        sa.Column("created_s", sa.Float, nullable=False),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("user", sa.String(32), sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("scope", sa.String(32), nullable=False, index=True),
        sa.Column("permissions", sa.JSON, nullable=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=True),
        sa.Column("last_used_s", sa.Float, nullable=True),
        sa.Column("ended_s", sa.Float, nullable=True),
        sa.Column("replaces", sa.String(16), nullable=True),
    )
    op.create_table(
        "sessions",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("user", sa.String(32), sa.ForeignKey("users.id"), nullable=False, index=True),
        sa.Column("csrf_sha256", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float, nullable=True),
    )
    op.create_table(
        "logins",
        sa.Column("state_sha256", sa.String(64), primary_key=True),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
    )
    op.create_table(
        "jobs",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("project", sa.String(32), nullable=False, index=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("wanted", sa.String(16), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=True),
        sa.Column("wish", sa.JSON, nullable=False),
        sa.Column("shown", sa.JSON, nullable=False),
        sa.Column("resources", sa.JSON, nullable=False),
        sa.Column("format", sa.Integer, nullable=False),
        sa.Column("most_attempts", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("progress", sa.JSON, nullable=True),
        sa.Column("result", sa.JSON, nullable=True),
        sa.Column("error", sa.JSON, nullable=True),
        sa.Column("schedule", sa.String(64), nullable=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("not_before_s", sa.Float, nullable=True),
        sa.Column("started_s", sa.Float, nullable=True),
        sa.Column("finished_s", sa.Float, nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "job_needs",
        sa.Column("job", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("needs", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
    )
    op.create_table(
        "attempts",
        sa.Column("job", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("launcher", sa.String(32), nullable=False),
        sa.Column("handle", sa.JSON, nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("started_s", sa.Float, nullable=True),
        sa.Column("finished_s", sa.Float, nullable=True),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("owner", sa.String(128), nullable=False),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=False),
    )
    op.create_table(
        "job_steps",
        sa.Column("job", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
    )
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("project", sa.String(32), nullable=False, index=True),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("cron", sa.String(100), nullable=False),
        sa.Column("job", sa.JSON, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("next_s", sa.Float, nullable=True),
        sa.Column("last_s", sa.Float, nullable=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float, nullable=True),
    )
    op.create_table(
        "idempotency",
        sa.Column("project", sa.String(32), primary_key=True),
        sa.Column("key_sha256", sa.String(64), primary_key=True),
        sa.Column("body_sha256", sa.String(64), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False, index=True),
    )
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("scope", sa.String(32), nullable=False, index=True),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("amount_micro", sa.BigInteger, nullable=False),
        sa.Column("period", sa.String(16), nullable=False),
        sa.Column("alerts", sa.JSON, nullable=False),
        sa.Column("before_micro", sa.BigInteger, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float, nullable=True),
    )
    op.create_table(
        "holds",
        sa.Column("job", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
        sa.Column("unit", sa.String(16), primary_key=True),
        sa.Column("held_micro", sa.BigInteger, nullable=False),
        sa.Column("metered_micro", sa.BigInteger, nullable=False),
        sa.Column("organisation", sa.String(32), nullable=False),
        sa.Column("project", sa.String(32), nullable=False, index=True),
        sa.Column("user", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=True),
        sa.Column("month", sa.String(7), nullable=False, index=True),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("settled_s", sa.Float, nullable=True),
    )
    op.create_table(
        "usage",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("time_s", sa.Float, nullable=False, index=True),
        sa.Column("month", sa.String(7), nullable=False, index=True),
        sa.Column("organisation", sa.String(32), nullable=False),
        sa.Column("project", sa.String(32), nullable=False, index=True),
        sa.Column("user", sa.String(32), nullable=False),
        sa.Column("key_id", sa.String(16), nullable=True),
        sa.Column("job", sa.String(64), nullable=True),
        sa.Column("model", sa.String(256), nullable=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("unit", sa.String(16), nullable=False),
        sa.Column("amount_micro", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "usage_totals",
        sa.Column("scope", sa.String(32), primary_key=True),
        sa.Column("unit", sa.String(16), primary_key=True),
        sa.Column("month", sa.String(7), primary_key=True),
        sa.Column("amount_micro", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "policies",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("scope", sa.String(32), nullable=False, index=True),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("time_s", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "approvals",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("project", sa.String(32), nullable=False, index=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(160), nullable=False, index=True),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("decided_by", sa.String(64), nullable=True),
        sa.Column("decided_reason", sa.Text, nullable=True),
        sa.Column("decided_s", sa.Float, nullable=True),
    )
    op.create_table(
        "webhooks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("project", sa.String(32), nullable=False, index=True),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("events", sa.JSON, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("changed_s", sa.Float, nullable=False),
        sa.Column("previous_until_s", sa.Float, nullable=True),
        sa.Column("ended_s", sa.Float, nullable=True),
    )
    op.create_table(
        "deliveries",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("webhook", sa.String(32), sa.ForeignKey("webhooks.id"), nullable=False, index=True),
        sa.Column("event", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, index=True),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer, nullable=True),
        sa.Column("next_s", sa.Float, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "uploaded_files",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(64), nullable=False, unique=True),
        sa.Column("filename", sa.String(512), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("details", sa.Text, nullable=True),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=True),
        sa.Column("ended_s", sa.Float, nullable=True),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("filename", sa.String(512), nullable=False),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("mime_type", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("file", sa.String(64), nullable=True),
        sa.Column("file_expires", sa.JSON, nullable=True),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("expires_s", sa.Float, nullable=False),
    )
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("upload", sa.String(64), sa.ForeignKey("uploads.id"), nullable=False, index=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
    )
    op.create_table(
        "objects",
        sa.Column("seq", number, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False, index=True),
        sa.Column("id", sa.String(160), nullable=False),
        sa.Column("parent", sa.String(160), nullable=True, index=True),
        sa.Column("data", sa.JSON, nullable=False),
        sa.Column("by", sa.String(64), nullable=False),
        sa.Column("created_s", sa.Float, nullable=False),
        sa.Column("changed_s", sa.Float, nullable=False),
        sa.Column("ended_s", sa.Float, nullable=True),
        sa.UniqueConstraint("kind", "id", name="objects_kind_id"),
        sqlite_autoincrement=True,
    )
    refused = (("usage", "UPDATE"), ("usage", "DELETE"), ("policies", "UPDATE"), ("policies", "DELETE"))
    if op.get_bind().dialect.name == "sqlite":
        for table, verb in refused:
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
    else:
        for table, verb in refused:
            op.execute(
                f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
                "FOR EACH ROW EXECUTE FUNCTION luthier_append_only()"
            )
