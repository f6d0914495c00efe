"""What people are asked, what they said, and who they are."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def key(length: int) -> sa.String:
    """Text compared byte by byte in every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def serial() -> sa.BigInteger:
    """A number that counts up; SQLite counts up plain integers alone."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """What people are asked, what they said, and who they are."""
    op.create_table(
        "audit",
        sa.Column("number", serial(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("actor", key(128), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("hash", key(64), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "invitations",
        sa.Column("token_hash", key(64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_by", key(128), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("used_by", key(128), nullable=True),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_table(
        "login_failures",
        sa.Column("number", serial(), nullable=False),
        sa.Column("subject", key(64), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index("login_failures_by_subject", "login_failures", ["subject", "at"], unique=False)
    op.create_table(
        "rounds",
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("policy", key(128), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "snapshots",
        sa.Column("name", key(64), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("description", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "accounts",
        sa.Column("annotator", key(128), nullable=False),
        sa.Column("login", key(128), nullable=True),
        sa.Column("password_hash", sa.String(length=256), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.PrimaryKeyConstraint("annotator"),
        sa.UniqueConstraint("login"),
    )
    op.create_table(
        "campaigns",
        sa.Column("name", key(64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("criterion", key(64), nullable=False),
        sa.Column("guideline", sa.Text(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=True),
        sa.Column("is_open", sa.Boolean(), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["round"],
            ["rounds.number"],
        ),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "decisions",
        sa.Column("number", serial(), nullable=False),
        sa.Column("annotator", key(128), nullable=False),
        sa.Column("about", sa.String(length=12), nullable=False),
        sa.Column("campaign", key(64), nullable=False),
        sa.Column("is_included", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("decided_by", key(128), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "snapshot_members",
        sa.Column("snapshot", key(64), nullable=False),
        sa.Column("kind", key(16), nullable=False),
        sa.Column("id", key(16), nullable=False),
        sa.ForeignKeyConstraint(
            ["snapshot"],
            ["snapshots.name"],
        ),
        sa.PrimaryKeyConstraint("snapshot", "kind", "id"),
    )
    op.create_table(
        "sessions",
        sa.Column("token_hash", key(64), nullable=False),
        sa.Column("annotator", key(128), nullable=False),
        sa.Column("form_token", sa.String(length=64), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("seen", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["accounts.annotator"],
        ),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_index("ix_sessions_annotator", "sessions", ["annotator"], unique=False)
    op.create_table(
        "tasks",
        sa.Column("id", key(16), nullable=False),
        sa.Column("campaign", key(64), nullable=False),
        sa.Column("prompt_id", key(16), nullable=False),
        sa.Column("responses", sa.JSON(), nullable=False),
        sa.Column("open_slots", sa.Integer(), nullable=False),
        sa.Column("is_random", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Float(), nullable=False),
        sa.Column("draw", sa.Float(), nullable=False),
        sa.Column("gold", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("is_screening", sa.Boolean(), nullable=False),
        sa.Column("explanation", sa.Text(), nullable=False),
        sa.CheckConstraint("open_slots >= 0", name="open_slots_not_negative"),
        sa.ForeignKeyConstraint(
            ["campaign"],
            ["campaigns.name"],
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompts.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "tasks_by_campaign",
        "tasks",
        ["campaign", "open_slots"],
        unique=False,
        sqlite_where=sa.text("gold IS NULL"),
        postgresql_where=sa.text("gold IS NULL"),
    )
    op.create_index(
        "tasks_by_draw",
        "tasks",
        ["campaign", "draw"],
        unique=False,
        sqlite_where=sa.text("gold IS NULL"),
        postgresql_where=sa.text("gold IS NULL"),
    )
    op.create_index(
        "tasks_gold",
        "tasks",
        ["campaign", "is_screening"],
        unique=False,
        sqlite_where=sa.text("gold IS NOT NULL"),
        postgresql_where=sa.text("gold IS NOT NULL"),
    )
    op.create_index(
        "tasks_open",
        "tasks",
        ["campaign", "is_random", "priority", "draw"],
        unique=False,
        sqlite_where=sa.text("open_slots > 0"),
        postgresql_where=sa.text("open_slots > 0"),
    )
    op.create_table(
        "assignments",
        sa.Column("id", key(32), nullable=False),
        sa.Column("task", key(16), nullable=False),
        sa.Column("campaign", key(64), nullable=False),
        sa.Column("annotator", key(128), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.ForeignKeyConstraint(
            ["campaign"],
            ["campaigns.name"],
        ),
        sa.ForeignKeyConstraint(
            ["task"],
            ["tasks.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("task", "annotator", name="a_task_once_to_an_annotator"),
    )
    op.create_index(
        "a_slot_to_one_annotator",
        "assignments",
        ["task", "slot"],
        unique=True,
        sqlite_where=sa.text("state IN ('leased', 'submitted')"),
        postgresql_where=sa.text("state IN ('leased', 'submitted')"),
    )
    op.create_index("assignments_by_annotator", "assignments", ["annotator", "campaign", "state"], unique=False)
    op.create_index(
        "skips",
        "assignments",
        ["campaign", "reason"],
        unique=False,
        sqlite_where=sa.text("state = 'skipped'"),
        postgresql_where=sa.text("state = 'skipped'"),
    )
    op.create_index(
        "leases",
        "assignments",
        ["expires"],
        unique=False,
        sqlite_where=sa.text("state = 'leased'"),
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_table(
        "judgments",
        sa.Column("number", serial(), nullable=False),
        sa.Column("id", key(16), nullable=False),
        sa.Column("assignment", key(32), nullable=False),
        sa.Column("task", key(16), nullable=False),
        sa.Column("campaign", key(64), nullable=False),
        sa.Column("annotator", key(128), nullable=False),
        sa.Column("criterion", key(64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("answer", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("shown", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("flags", sa.JSON(), nullable=False),
        sa.Column("is_gold", sa.Boolean(), nullable=False),
        sa.Column("is_right", sa.Boolean(), nullable=True),
        sa.Column("guideline", key(16), nullable=False),
        sa.Column("version", sa.String(length=32), nullable=False),
        sa.Column("submission", key(64), nullable=False),
        sa.Column("supersedes", key(16), nullable=True),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.ForeignKeyConstraint(
            ["assignment"],
            ["assignments.id"],
        ),
        sa.ForeignKeyConstraint(
            ["campaign"],
            ["campaigns.name"],
        ),
        sa.ForeignKeyConstraint(
            ["task"],
            ["tasks.id"],
        ),
        sa.PrimaryKeyConstraint("number"),
        sa.UniqueConstraint("annotator", "submission", name="a_submission_once"),
        sa.UniqueConstraint("id"),
    )
    op.create_index(
        "corrected_once",
        "judgments",
        ["supersedes"],
        unique=True,
        sqlite_where=sa.text("supersedes IS NOT NULL"),
        postgresql_where=sa.text("supersedes IS NOT NULL"),
    )
    op.create_index("ix_judgments_assignment", "judgments", ["assignment"], unique=False)
    op.create_index("ix_judgments_task", "judgments", ["task"], unique=False)
    op.create_index(
        "judgments_by_annotator", "judgments", ["annotator", "campaign", "number", "supersedes"], unique=False
    )
    op.create_index("judgments_by_campaign", "judgments", ["campaign", "number"], unique=False)
    op.execute("DROP TABLE IF EXISTS plaudit_schema")
    op.add_column("comparisons", sa.Column("judgment", key(16), nullable=True))
    op.create_index("ix_comparisons_judgment", "comparisons", ["judgment"], unique=False)
    op.add_column("demonstrations", sa.Column("annotator", key(128), nullable=True))
    op.add_column("demonstrations", sa.Column("judgment", key(16), nullable=True))
    op.create_index("ix_demonstrations_judgment", "demonstrations", ["judgment"], unique=False)
    op.add_column("labels", sa.Column("judgment", key(16), nullable=True))
    op.create_index("ix_labels_judgment", "labels", ["judgment"], unique=False)
