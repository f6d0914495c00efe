"""The tables. Rows are added and never changed: a correction is a new row."""

from __future__ import annotations

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text

SCHEMA_VERSION = 2

metadata = MetaData()

schema = Table("plaudit_schema", metadata, Column("version", Integer, primary_key=True))

prompts = Table(
    "prompts",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("messages", JSON, nullable=False),
    Column("split", String(8), nullable=False, index=True),
    Column("source", Text, nullable=False),
)

demonstrations = Table(
    "demonstrations",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("source", Text, nullable=False),
)

responses = Table(
    "responses",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("run", String(64), nullable=False, index=True),
    Column("token_ids", JSON),
    Column("log_probs", JSON),
    Column("finished", Boolean, nullable=False),
    Column("temperature", Float),
)

annotators = Table(
    "annotators",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("parameters", JSON, nullable=False),
)

comparisons = Table(
    "comparisons",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("first", ForeignKey("responses.id"), nullable=False),
    Column("second", ForeignKey("responses.id"), nullable=False),
    Column("annotator", ForeignKey("annotators.name"), nullable=False),
    Column("choice", String(8), nullable=False),
    Column("grade", Integer),
    Column("probability_first", Float),
    Column("seconds", Float),
    Column("run", String(64), nullable=False),
    Column("created", String(32), nullable=False),
    Column("criterion", String(64), nullable=False),
    Column("soft_preference", Float),
    Column("ranking", String(16)),
    Index("comparisons_by_run_and_prompt", "run", "prompt_id"),
)

labels = Table(
    "labels",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("prompt_id", ForeignKey("prompts.id"), nullable=False),
    Column("response", ForeignKey("responses.id"), nullable=False),
    Column("annotator", ForeignKey("annotators.name"), nullable=False),
    Column("value", Float, nullable=False),
    Column("run", String(64), nullable=False, index=True),
    Column("criterion", String(64), nullable=False),
    Column("created", String(32), nullable=False),
)
