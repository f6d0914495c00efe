"""The tables. Judgments are added and never changed: a correction is a new row that supersedes an old one.

prompts, demonstrations, responses, annotators, comparisons, labels   what the stages exchange
rounds, campaigns, tasks, assignments, judgments                      what people are asked, and what they said
accounts, invitations, sessions, login_failures                       who they are, and how they come in
decisions, audit                                                      whose judgments count, and who did what
snapshots, snapshot_members                                           fixed sets of judgments that a run can name
imports, corrections                                                  what came from which file, and what replaced what
exclusions, exclusion_members                                         what is passed over, and since when again not
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)


def key(length: int) -> String:
    """Text that rows are found and ordered by: compared byte by byte in every database."""
    return String(length).with_variant(String(length, collation="C"), "postgresql")


def serial() -> BigInteger:
    """A number that counts up; SQLite counts up plain integers alone."""
    return BigInteger().with_variant(Integer, "sqlite")


metadata = MetaData()

prompts = Table(
    "prompts",
    metadata,
    Column("id", key(16), primary_key=True),
    Column("messages", JSON, nullable=False),
    Column("split", String(8), nullable=False, index=True),
    Column("source", Text, nullable=False),
    Column("import_number", serial()),  # of the import that brought it; none where a stage or an older Plaudit did
)

demonstrations = Table(
    "demonstrations",
    metadata,
    Column("id", key(16), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("annotator", key(128)),
    Column("judgment", key(16), index=True),
    Column("import_number", serial()),
)

responses = Table(
    "responses",
    metadata,
    Column("id", key(64), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("run", key(64), nullable=False, index=True),
    Column("token_ids", JSON),
    Column("log_probs", JSON),
    Column("finished", Boolean, nullable=False),
    Column("temperature", Float),
)

annotators = Table(
    "annotators",
    metadata,
    Column("name", key(128), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("parameters", JSON, nullable=False),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", key(16), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("first", ForeignKey("responses.id"), nullable=False),
    Column("second", ForeignKey("responses.id"), nullable=False),
    Column("annotator", ForeignKey("annotators.name"), nullable=False),
    Column("choice", String(8), nullable=False),
    Column("grade", Integer),
    Column("probability_first", Float),
    Column("seconds", Float),
    Column("run", key(64), nullable=False),
    Column("created", String(32), nullable=False),
    Column("criterion", key(64), nullable=False),
    Column("soft_preference", Float),
    Column("ranking", key(16)),
    Column("judgment", key(16), index=True),
    Column("import_number", serial()),
    Index("comparisons_by_run_and_prompt", "run", "prompt_id"),
)

labels = Table(
    "labels",
    metadata,
    Column("id", key(16), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("response", ForeignKey("responses.id"), nullable=False),
    Column("annotator", ForeignKey("annotators.name"), nullable=False),
    Column("value", Float, nullable=False),
    Column("run", key(64), nullable=False, index=True),
    Column("criterion", key(64), nullable=False),
    Column("created", String(32), nullable=False),
    Column("judgment", key(16), index=True),
    Column("import_number", serial()),
)

rounds = Table(
    "rounds",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("policy", key(128), nullable=False),  # the run whose samples are judged; empty where there is none
    Column("created", String(32), nullable=False),
)

campaigns = Table(
    "campaigns",
    metadata,
    Column("name", key(64), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("criterion", key(64), nullable=False),
    Column("guideline", Text, nullable=False),
    Column("settings", JSON, nullable=False),
    Column("round", ForeignKey("rounds.number")),
    Column("is_open", Boolean, nullable=False),
    Column("created", String(32), nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", key(16), primary_key=True),
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("responses", JSON, nullable=False),  # ids, in an order that means nothing
    Column("open_slots", Integer, nullable=False),
    Column("is_random", Boolean, nullable=False),  # drawn for estimates that have to be unbiased
    Column("priority", Float, nullable=False),  # the largest first
    Column("draw", Float, nullable=False),  # a random number that settles every other order
    Column("gold", JSON(none_as_null=True)),  # the known answer; none for real work
    Column("is_screening", Boolean, nullable=False),
    Column("explanation", Text, nullable=False),
    CheckConstraint("open_slots >= 0", name="open_slots_not_negative"),
)
_open = text("open_slots > 0")
Index(
    "tasks_open",
    *(tasks.c[name] for name in ("campaign", "is_random", "priority", "draw")),
    sqlite_where=_open,
    postgresql_where=_open,
)
_real = text("gold IS NULL")
Index("tasks_by_campaign", tasks.c.campaign, tasks.c.open_slots, sqlite_where=_real, postgresql_where=_real)
Index("tasks_by_draw", tasks.c.campaign, tasks.c.draw, sqlite_where=_real, postgresql_where=_real)
_golden = text("gold IS NOT NULL")
Index("tasks_gold", tasks.c.campaign, tasks.c.is_screening, sqlite_where=_golden, postgresql_where=_golden)

assignments = Table(
    "assignments",
    metadata,
    Column("id", key(32), primary_key=True),  # random: it stands in addresses
    Column("task", ForeignKey("tasks.id"), nullable=False),
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("annotator", ForeignKey("annotators.name"), nullable=False),
    Column("slot", Integer),  # none for gold, which everybody may answer
    Column("state", String(12), nullable=False),  # leased, submitted, skipped or expired
    Column("shown", JSON, nullable=False),  # response ids in the order shown
    Column("created", Float, nullable=False),  # seconds since 1970
    Column("expires", Float, nullable=False),
    Column("reason", Text),  # of a skip
    UniqueConstraint("task", "annotator", name="a_task_once_to_an_annotator"),
    Index("assignments_by_annotator", "annotator", "campaign", "state"),
)
_taken = text("state IN ('leased', 'submitted')")
Index(
    "a_slot_to_one_annotator",
    assignments.c.task,
    assignments.c.slot,
    unique=True,
    sqlite_where=_taken,
    postgresql_where=_taken,
)
_skipped = text("state = 'skipped'")
Index("skips", assignments.c.campaign, assignments.c.reason, sqlite_where=_skipped, postgresql_where=_skipped)
_leased = text("state = 'leased'")
Index("leases", assignments.c.expires, sqlite_where=_leased, postgresql_where=_leased)

judgments = Table(
    "judgments",
    metadata,
    Column("number", serial(), primary_key=True),
    Column("id", key(16), nullable=False, unique=True),
    Column("assignment", ForeignKey("assignments.id"), nullable=False, index=True),
    Column("task", ForeignKey("tasks.id"), nullable=False, index=True),
    Column("campaign", ForeignKey("campaigns.name"), nullable=False),
    Column("annotator", ForeignKey("annotators.name"), nullable=False),
    Column("criterion", key(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("answer", JSON(none_as_null=True)),  # none: the judgment that it supersedes was taken back
    Column("shown", JSON, nullable=False),
    Column("seconds", Float),
    Column("comment", Text, nullable=False),
    Column("flags", JSON, nullable=False),
    Column("is_gold", Boolean, nullable=False),
    Column("is_right", Boolean),  # of gold
    Column("guideline", key(16), nullable=False),  # content id of the text that was shown beside it
    Column("version", String(32), nullable=False),  # of Plaudit
    Column("submission", key(64), nullable=False),  # made by the page: a second copy of it changes nothing
    Column("supersedes", key(16)),
    Column("created", String(32), nullable=False),
    UniqueConstraint("annotator", "submission", name="a_submission_once"),
    Index("judgments_by_campaign", "campaign", "number"),
    Index("judgments_by_annotator", "annotator", "campaign", "number", "supersedes"),
)
_corrects = text("supersedes IS NOT NULL")  # else SQLite looks for all that correct nothing by this index
Index("corrected_once", judgments.c.supersedes, unique=True, sqlite_where=_corrects, postgresql_where=_corrects)

accounts = Table(
    "accounts",
    metadata,
    Column("annotator", ForeignKey("annotators.name"), primary_key=True),  # the pseudonym, all that is ever exported
    Column("login", key(128), unique=True),  # none once the person has withdrawn
    Column("password_hash", String(256), nullable=False),
    Column("role", String(16), nullable=False),  # annotator, researcher or admin
    Column("state", String(12), nullable=False),  # active, paused or closed
    Column("created", String(32), nullable=False),
)

invitations = Table(
    "invitations",
    metadata,
    Column("token_hash", key(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("created_by", key(128), nullable=False),
    Column("created", String(32), nullable=False),
    Column("expires", Float, nullable=False),
    Column("used_by", key(128)),
)

sessions = Table(
    "sessions",
    metadata,
    Column("token_hash", key(64), primary_key=True),
    Column("annotator", ForeignKey("accounts.annotator"), nullable=False, index=True),
    Column("form_token", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("seen", Float, nullable=False),
    Column("expires", Float, nullable=False),
)

login_failures = Table(
    "login_failures",
    metadata,
    Column("number", serial(), primary_key=True),
    Column("subject", key(64), nullable=False),  # a hash of the login, or of the address
    Column("at", Float, nullable=False),
    Index("login_failures_by_subject", "subject", "at"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("number", serial(), primary_key=True),
    Column("annotator", ForeignKey("annotators.name"), nullable=False),
    Column("about", String(12), nullable=False),  # training: whether they count; admission: whether they may work
    Column("campaign", key(64), nullable=False),  # empty: all of them
    Column("is_included", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Column("decided_by", key(128), nullable=False),
    Column("created", String(32), nullable=False),
)

audit = Table(
    "audit",
    metadata,
    Column("number", serial(), primary_key=True),
    Column("created", String(32), nullable=False),
    Column("actor", key(128), nullable=False),
    Column("action", String(32), nullable=False),
    Column("details", Text, nullable=False),  # JSON as it was hashed
    Column("hash", key(64), nullable=False),  # SHA-256 of the row before's hash and of this row
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("name", key(64), primary_key=True),
    Column("created", String(32), nullable=False),
    Column("description", JSON, nullable=False),  # what was chosen; rows and SHA-256 by kind
)

snapshot_members = Table(
    "snapshot_members",
    metadata,
    Column("snapshot", ForeignKey("snapshots.name"), primary_key=True),
    Column("kind", key(16), primary_key=True),  # comparisons, labels or demonstrations
    Column("id", key(16), primary_key=True),
)

imports = Table(
    "imports",
    metadata,
    Column("number", serial(), primary_key=True),
    Column("run", key(64), nullable=False),  # by which its judgments are named
    Column("file", Text, nullable=False),
    Column("kind", key(16), nullable=False),
    Column("format", String(32), nullable=False),
    Column("created", String(32), nullable=False),  # also the time of judgments that say none
)

corrections = Table(
    "corrections",
    metadata,
    Column("kind", key(16), primary_key=True),  # comparisons or labels
    Column("id", key(16), primary_key=True),  # what no longer stands
    Column("by", key(16), nullable=False),  # what the same annotator said later of the same
    Column("created", String(32), nullable=False),
)

exclusions = Table(
    "exclusions",
    metadata,
    Column("number", serial(), primary_key=True),
    Column("is_excluded", Boolean, nullable=False),  # else restored
    Column("chosen", JSON, nullable=False),  # what was asked for: ids, runs, sources, ...
    Column("reason", Text, nullable=False),
    Column("actor", key(128), nullable=False),
    Column("created", String(32), nullable=False),
)

exclusion_members = Table(
    "exclusion_members",
    metadata,
    Column("kind", key(16), primary_key=True),  # the table's name
    Column("id", key(64), primary_key=True),
    Column("exclusion", ForeignKey("exclusions.number"), primary_key=True),  # the newest of a row holds
)
