"""What came from which file, what was corrected there, and what is passed over."""

import json
import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def key(length: int) -> sa.String:
    """Text compared byte by byte in every database."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def serial() -> sa.BigInteger:
    """A number that counts up; SQLite counts up plain integers alone."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """What came from which file, what was corrected there, and what is passed over."""
    op.create_table(
        "imports",
        sa.Column("number", serial(), nullable=False),
        sa.Column("run", key(64), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("kind", key(16), nullable=False),
        sa.Column("format", sa.String(length=32), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "corrections",
        sa.Column("kind", key(16), nullable=False),
        sa.Column("id", key(16), nullable=False),
        sa.Column("by", key(16), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("kind", "id"),
    )
    op.create_table(
        "exclusions",
        sa.Column("number", serial(), nullable=False),
        sa.Column("is_excluded", sa.Boolean(), nullable=False),
        sa.Column("chosen", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("actor", key(128), nullable=False),
        sa.Column("created", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_table(
        "exclusion_members",
        sa.Column("kind", key(16), nullable=False),
        sa.Column("id", key(64), nullable=False),
        sa.Column("exclusion", serial(), nullable=False),
        sa.ForeignKeyConstraint(["exclusion"], ["exclusions.number"]),
        sa.PrimaryKeyConstraint("kind", "id", "exclusion"),
    )
    for table in ("prompts", "demonstrations", "comparisons", "labels"):
        op.add_column(table, sa.Column("import_number", serial(), nullable=True))
    _give_pseudonyms()


def _give_pseudonyms() -> None:
    """Annotators whose name is an e-mail address: what stands in its place in files that leave the workspace."""
    connection = op.get_bind()
    annotators = sa.table("annotators", sa.column("name", sa.String), sa.column("parameters", sa.JSON))
    rows = connection.execute(sa.select(annotators).where(annotators.c.name.like("%@%"))).all()
    for name, parameters in rows:
        known = json.loads(parameters) if isinstance(parameters, str) else dict(parameters or {})
        more = known | {"pseudonym": f"person-{secrets.token_hex(4)}"}
        connection.execute(annotators.update().where(annotators.c.name == name).values(parameters=more))
