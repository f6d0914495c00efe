"""What the stages exchange."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def key(length: int) -> sa.String:
    """Text compared byte by byte in every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def upgrade() -> None:
    """What the stages exchange."""
    op.create_table(
        "annotators",
        sa.Column("name", key(128), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "prompts",
        sa.Column("id", key(16), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("split", sa.String(length=8), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_prompts_split", "prompts", ["split"], unique=False)
    op.create_table(
        "demonstrations",
        sa.Column("id", key(16), nullable=False),
        sa.Column("prompt_id", key(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompts.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_demonstrations_prompt_id", "demonstrations", ["prompt_id"], unique=False)
    op.create_table(
        "responses",
        sa.Column("id", key(64), nullable=False),
        sa.Column("prompt_id", key(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("run", key(64), nullable=False),
        sa.Column("token_ids", sa.JSON(), nullable=True),
        sa.Column("log_probs", sa.JSON(), nullable=True),
        sa.Column("finished", sa.Boolean(), nullable=False),
        sa.Column("temperature", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompts.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_responses_prompt_id", "responses", ["prompt_id"], unique=False)
    op.create_index("ix_responses_run", "responses", ["run"], unique=False)
    op.create_table(
        "comparisons",
        sa.Column("id", key(16), nullable=False),
        sa.Column("prompt_id", key(16), nullable=False),
        sa.Column("first", key(64), nullable=False),
        sa.Column("second", key(64), nullable=False),
        sa.Column("annotator", key(128), nullable=False),
        sa.Column("choice", sa.String(length=8), nullable=False),
        sa.Column("grade", sa.Integer(), nullable=True),
        sa.Column("probability_first", sa.Float(), nullable=True),
        sa.Column("seconds", sa.Float(), nullable=True),
        sa.Column("run", key(64), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.Column("criterion", key(64), nullable=False),
        sa.Column("soft_preference", sa.Float(), nullable=True),
        sa.Column("ranking", key(16), nullable=True),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.ForeignKeyConstraint(
            ["first"],
            ["responses.id"],
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompts.id"],
        ),
        sa.ForeignKeyConstraint(
            ["second"],
            ["responses.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("comparisons_by_run_and_prompt", "comparisons", ["run", "prompt_id"], unique=False)
    op.create_table(
        "labels",
        sa.Column("id", key(16), nullable=False),
        sa.Column("prompt_id", key(16), nullable=False),
        sa.Column("response", key(64), nullable=False),
        sa.Column("annotator", key(128), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("run", key(64), nullable=False),
        sa.Column("criterion", key(64), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["annotator"],
            ["annotators.name"],
        ),
        sa.ForeignKeyConstraint(
            ["prompt_id"],
            ["prompts.id"],
        ),
        sa.ForeignKeyConstraint(
            ["response"],
            ["responses.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_labels_run", "labels", ["run"], unique=False)
