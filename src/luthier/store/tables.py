"""Every table there is, once. A home of one person, a project of a server and the server itself have the same ones; what a home does not
use is empty there.

    artifacts, files, parents, names, events, tombstones, traffic, feedback, rollouts    in every home; a server's project is a home
    uploaded_files, uploads, upload_parts, objects                                       in a project's home: what its people put there
    organisations ... sessions, jobs ... schedules, budgets ... approvals                in the server's own home
    audit, audit_people                                                                  in both, of what is changed there

History is append-only: triggers made by the migrations refuse UPDATE and DELETE where it is, so it cannot be rewritten by a slip of
ours. What people asked and said is kept for a time and may be removed; a job, a lease, a key have a state that changes, and the trail
tells of each change. Times are seconds of Unix time; amounts that are added up are whole millionths (`_micro`).
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

artifacts = sa.Table(
    "artifacts",
    metadata,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(32), nullable=False, index=True),
    sa.Column("key", sa.String(64), nullable=False, index=True),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("summary", sa.JSON, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)
files = sa.Table(
    "files",
    metadata,
    sa.Column("digest", sa.String(64), sa.ForeignKey("artifacts.digest"), primary_key=True),
    sa.Column("path", sa.String(1024), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
)
parents = sa.Table(
    "parents",
    metadata,
    sa.Column("child", sa.String(64), sa.ForeignKey("artifacts.digest"), primary_key=True),
    sa.Column("role", sa.String(64), primary_key=True),
    sa.Column("parent", sa.String(64), sa.ForeignKey("artifacts.digest"), nullable=False, index=True),
)
names = sa.Table(
    "names",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.String(64), sa.ForeignKey("artifacts.digest"), nullable=False, index=True),
    sa.Column("created_s", sa.Float, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("kind", sa.String(64), nullable=False, index=True),
    sa.Column("subject", sa.String(128), nullable=False, index=True),
    sa.Column("data", sa.JSON, nullable=False),
)
tombstones = sa.Table(
    "tombstones",
    metadata,
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
)


traffic = sa.Table(
    "traffic",
    metadata,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
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
    sa.Column("tools", sa.JSON(none_as_null=True), nullable=True),
)
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    ),
    sa.Column("exchange", sa.String(128), nullable=False, index=True),
    sa.Column("choice", sa.Integer, nullable=False),
    sa.Column("rating", sa.Float, nullable=True),
    sa.Column("correction", sa.Text, nullable=True),
    sa.Column("comment", sa.Text, nullable=True),
    sa.Column("by", sa.String(256), nullable=False),
    sa.Column("time_s", sa.Float, nullable=False),
    sa.Column("calls", sa.JSON(none_as_null=True), nullable=True),
)

rollouts = sa.Table(
    "rollouts",
    metadata,
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
audit = sa.Table(
    "audit",
    metadata,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False
    ),
    sa.Column("time_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("actor", sa.String(128), nullable=False, index=True),
    sa.Column("action", sa.String(64), nullable=False, index=True),
    sa.Column("subject", sa.String(256), nullable=False, index=True),
    sa.Column("outcome", sa.String(16), nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("person_sha256", sa.String(64), nullable=True),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)
audit_people = sa.Table(
    "audit_people",
    metadata,
    sa.Column(
        "seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False
    ),
    sa.Column("salt", sa.String(32), nullable=False),
    sa.Column("person", sa.JSON, nullable=False),
)


def _number(name: str = "seq") -> sa.Column[int]:
    return sa.Column(
        name, sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True
    )


# -- who: in the server's home --------------------------------------------------------------------------------------------

organisations = sa.Table(
    "organisations",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("ended_s", sa.Float, nullable=True),
)
projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("organisation", sa.String(32), sa.ForeignKey("organisations.id"), nullable=False, index=True),
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("ended_s", sa.Float, nullable=True),
)
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False),  # person | service
    sa.Column("name", sa.String(256), nullable=False),
    sa.Column("issuer", sa.String(256), nullable=True),
    sa.Column("subject", sa.String(256), nullable=True),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("ended_s", sa.Float, nullable=True),
    sa.UniqueConstraint("issuer", "subject", name="users_issuer_subject"),
)
grants = sa.Table(
    "grants",
    metadata,
    sa.Column("scope", sa.String(32), primary_key=True),  # a project, an organisation, or `site`
    sa.Column("user", sa.String(32), sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("role", sa.String(16), primary_key=True),
    sa.Column("created_s", sa.Float, nullable=False),
)
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("user", sa.String(32), sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("scope", sa.String(32), nullable=False, index=True),
    sa.Column("permissions", sa.JSON, nullable=True),  # a list; null: all that its user may there
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=True),
    sa.Column("last_used_s", sa.Float, nullable=True),
    sa.Column("ended_s", sa.Float, nullable=True),
    sa.Column("replaces", sa.String(16), nullable=True),
)
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("sha256", sa.String(64), primary_key=True),
    sa.Column("user", sa.String(32), sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("csrf_sha256", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False),
    sa.Column("ended_s", sa.Float, nullable=True),
)
logins = sa.Table(
    "logins",
    metadata,
    sa.Column("state_sha256", sa.String(64), primary_key=True),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)

# -- jobs: in the server's home -------------------------------------------------------------------------------------------

jobs = sa.Table(
    "jobs",
    metadata,
    _number(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("project", sa.String(32), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("wanted", sa.String(16), nullable=False),  # run | pause | cancel
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
)
job_needs = sa.Table(
    "job_needs",
    metadata,
    sa.Column("job", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("needs", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
)
attempts = sa.Table(
    "attempts",
    metadata,
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
leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False),
)
job_steps = sa.Table(
    "job_steps",
    metadata,
    sa.Column("job", sa.String(64), sa.ForeignKey("jobs.id"), primary_key=True),
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("time_s", sa.Float, nullable=False),
)
schedules = sa.Table(
    "schedules",
    metadata,
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
idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("project", sa.String(32), primary_key=True),
    sa.Column("key_sha256", sa.String(64), primary_key=True),
    sa.Column("body_sha256", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False, index=True),
)

# -- money and rules: in the server's home --------------------------------------------------------------------------------

budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column(
        "scope", sa.String(32), nullable=False, index=True
    ),  # an organisation, a project, a user, a key
    sa.Column("unit", sa.String(16), nullable=False),  # money:EUR | tokens | gpu_hours
    sa.Column("amount_micro", sa.BigInteger, nullable=False),
    sa.Column("period", sa.String(16), nullable=False),  # month | once
    sa.Column("alerts", sa.JSON, nullable=False),
    sa.Column("before_micro", sa.BigInteger, nullable=False),  # what the scope had used when it was made
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("ended_s", sa.Float, nullable=True),
)
holds = sa.Table(
    "holds",
    metadata,
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
usage = sa.Table(
    "usage",
    metadata,
    _number(),
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
)
usage_totals = sa.Table(
    "usage_totals",
    metadata,
    sa.Column("scope", sa.String(32), primary_key=True),
    sa.Column("unit", sa.String(16), primary_key=True),
    sa.Column("month", sa.String(7), primary_key=True),
    sa.Column("amount_micro", sa.BigInteger, nullable=False),
)
policies = sa.Table(
    "policies",
    metadata,
    _number(),
    sa.Column("scope", sa.String(32), nullable=False, index=True),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("time_s", sa.Float, nullable=False),
)
approvals = sa.Table(
    "approvals",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("project", sa.String(32), nullable=False, index=True),
    sa.Column("kind", sa.String(32), nullable=False),
    sa.Column("subject", sa.String(160), nullable=False, index=True),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # open | granted | declined | withdrawn | expired
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("decided_by", sa.String(64), nullable=True),
    sa.Column("decided_reason", sa.Text, nullable=True),
    sa.Column("decided_s", sa.Float, nullable=True),
)
webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("project", sa.String(32), nullable=False, index=True),
    sa.Column("url", sa.String(2000), nullable=False),
    sa.Column("events", sa.JSON, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("title", sa.String(200), nullable=False),
    sa.Column("generation", sa.Integer, nullable=False),  # of its secret
    sa.Column("changed_s", sa.Float, nullable=False),
    sa.Column("previous_until_s", sa.Float, nullable=True),  # how long the secret before signs too
    sa.Column("ended_s", sa.Float, nullable=True),
)
deliveries = sa.Table(
    "deliveries",
    metadata,
    _number(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("webhook", sa.String(32), sa.ForeignKey("webhooks.id"), nullable=False, index=True),
    sa.Column("event", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),  # waiting | delivered | given_up
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("status", sa.Integer, nullable=True),
    sa.Column("next_s", sa.Float, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)

# -- what people put into a project: in its home --------------------------------------------------------------------------

uploaded_files = sa.Table(
    "uploaded_files",
    metadata,
    _number(),
    sa.Column("id", sa.String(64), nullable=False, unique=True),
    sa.Column("filename", sa.String(512), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("status", sa.String(16), nullable=False),  # uploaded | processed | error
    sa.Column("details", sa.Text, nullable=True),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=True),
    sa.Column("ended_s", sa.Float, nullable=True),
)
uploads = sa.Table(
    "uploads",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("filename", sa.String(512), nullable=False),
    sa.Column("purpose", sa.String(32), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("mime_type", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # pending | completed | cancelled | expired
    sa.Column("file", sa.String(64), nullable=True),
    sa.Column("file_expires", sa.JSON, nullable=True),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("expires_s", sa.Float, nullable=False),
)
upload_parts = sa.Table(
    "upload_parts",
    metadata,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("upload", sa.String(64), sa.ForeignKey("uploads.id"), nullable=False, index=True),
    sa.Column("sha256", sa.String(64), nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
)
objects = sa.Table(
    "objects",
    metadata,
    _number(),
    sa.Column("kind", sa.String(32), nullable=False, index=True),  # eval, eval_item, model, permission, ...
    sa.Column("id", sa.String(160), nullable=False),
    sa.Column("parent", sa.String(160), nullable=True, index=True),
    sa.Column("data", sa.JSON, nullable=False),
    sa.Column("by", sa.String(64), nullable=False),
    sa.Column("created_s", sa.Float, nullable=False),
    sa.Column("changed_s", sa.Float, nullable=False),
    sa.Column("ended_s", sa.Float, nullable=True),
    sa.UniqueConstraint("kind", "id", name="objects_kind_id"),
)
