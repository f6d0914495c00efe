"""Commands for what people are asked: campaigns, the server of the pages, accounts, the audit chain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plaudit.cli.options import DEFAULT_WORKSPACE, Json, WorkspaceOption, group, open_workspace, show
from plaudit.errors import DataError

if TYPE_CHECKING:
    from plaudit.collect.arena import Policies
    from plaudit.collect.campaigns import CampaignSettings
    from plaudit.records import Split
    from plaudit.workspace import Workspace

campaign_app = group("What people are asked: make campaigns, add gold, set the order, watch.")
people_app = group("Who may log in to the pages for people, and whose judgments count.")
audit_app = group("Who did what: the chain of records.")
CampaignName = Annotated[str, typer.Argument(help="Name of the campaign.", metavar="CAMPAIGN")]
Annotator = Annotated[str, typer.Argument(help="Name under which your judgments are kept.", metavar="ANNOTATOR")]
DEFAULT_ADDRESS = "http://127.0.0.1:8000"
Why = Annotated[str, typer.Option("--reason", help="Reason, which is kept with the decision.")]


def _actor() -> str:
    from plaudit.collect.terminal import user

    return f"person:{user()}"


def _settings(rules: list[str] | None) -> CampaignSettings:
    from pydantic import ValidationError

    from plaudit.collect.campaigns import CampaignSettings
    from plaudit.config.resolve import read_value
    from plaudit.errors import ConfigError, nearest

    values: dict[str, Any] = {}
    for rule in rules or []:
        name, equals, value = rule.partition("=")
        if not equals or name not in CampaignSettings.model_fields:
            known = ", ".join(CampaignSettings.model_fields)
            raise ConfigError(
                f"`{rule}`: write RULE=VALUE, with a rule of: {known}.{nearest(name, CampaignSettings.model_fields)}"
            )
        values[name] = read_value(value, rule)
    try:
        return CampaignSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"`{'.'.join(map(str, first['loc']))}`: {first['msg']}.") from None


@campaign_app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.", metavar="NAME")],
    kind: Annotated[str, typer.Option("--kind", help="compare, rank, rate, safety, demonstrate or edit.")],
    responses: Annotated[
        list[str] | None,
        typer.Option(
            "--responses", help="A sampling run, or an import, whose responses are judged; several for a head-to-head."
        ),
    ] = None,
    criterion: Annotated[
        str, typer.Option("--criterion", help="helpfulness, harmlessness, honesty, or your own.")
    ] = "",
    guideline: Annotated[
        Path | None, typer.Option("--guideline", help="A Markdown file that says what is asked.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train, held_out or all: whose prompts.")] = "train",
    most: Annotated[int | None, typer.Option("--most", min=1, help="Most prompts; a random draw of them.")] = None,
    per_task: Annotated[
        int, typer.Option("--per-task", min=3, max=9, help="Number of answers that are ranked together.")
    ] = 4,
    round_number: Annotated[
        int | None, typer.Option("--round", min=0, help="Round that the campaign belongs to.")
    ] = None,
    rules: Annotated[
        list[str] | None,
        typer.Argument(help="Rules of the campaign, such as people_per_task=3.", metavar="[RULE=VALUE]..."),
    ] = None,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Make a campaign: tasks of one kind, by one criterion, from responses that are in the workspace.

    Rules: people_per_task, lease_minutes, random_share, gold_every, screening_tasks, pass_mark, pause_window,
    pause_below, scale, is_markdown, researchers_check. Two or more --responses with --kind compare set policies
    against each other, blind.
    """
    from plaudit.collect.campaigns import create_campaign
    from plaudit.collect.planning import plan

    settings = _settings(rules)
    opened = open_workspace(workspace)
    splits: dict[str, Split | None] = {"train": "train", "held_out": "held_out", "all": None}
    if split not in splits:
        raise DataError(f"--split {split}: {', '.join(splits)}.")
    planned = plan(opened, kind, responses or [], split=splits[split], most=most, per_task=per_task)
    text = _read(guideline) if guideline is not None else ""
    added = create_campaign(
        opened.store, name, kind=kind, tasks_=planned.tasks, criterion=criterion, guideline=text, settings=settings,
        round_number=round_number, policy=", ".join(planned.runs), actor=_actor(),
    )  # fmt: skip
    left = f" {planned.unanswered} prompts have no answer of {', '.join(planned.runs)}." if planned.unanswered else ""
    left += f" {planned.too_few} prompts have too few different answers for it." if planned.too_few else ""
    numbers = {"prompts_left_out": planned.too_few, "prompts_without_answers": planned.unanswered}
    show(
        {"campaign": name, "tasks": added, **numbers, "responses": planned.runs},
        as_json,
        f"Made campaign {name} with {added} tasks.{left}\nNext: plaudit annotate --workspace {workspace}",
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from None


@campaign_app.command("gold")
def gold(
    name: CampaignName,
    file: Annotated[
        Path, typer.Argument(help="JSONL as for `plaudit import`, of the campaign's kind; may have `explanation`.")
    ],
    screening: Annotated[
        bool,
        typer.Option(
            "--screening", help="Use these in the test before the work; otherwise they are mixed into the work."
        ),
    ] = False,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Add tasks of known answer: prompt + chosen + rejected, + responses + ranks, or + completion + rating or label."""
    from plaudit.collect.planning import import_gold

    opened = open_workspace(workspace)
    added = import_gold(opened.store, name, file, screening=screening, actor=_actor())
    show({"campaign": name, "added": added}, as_json, f"{added} gold tasks added to {name}.")


@campaign_app.command("prioritise")
def prioritise(
    name: CampaignName,
    reward: Annotated[
        str, typer.Option("--reward", help="A reward run; an ensemble's disagreement is used if it is one.")
    ] = "latest:reward",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Put first what a reward model is least sure of. The random share of the campaign stays as it is."""
    from plaudit.collect.priorities import prioritise as reorder

    opened = open_workspace(workspace)
    result = reorder(opened, name, reward, actor=_actor())
    show(
        result, as_json, f"{result['tasks']} open tasks of {name} are ordered by {result['by']} of {result['reward']}."
    )


@campaign_app.command("list")
def list_(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Show the campaigns and how far they are."""
    from plaudit.collect.campaigns import all_campaigns
    from plaudit.collect.progress import progress_of

    opened = open_workspace(workspace)
    with opened.store.database.reading() as connection:
        found = [(campaign, progress_of(connection, campaign)) for campaign in all_campaigns(connection)]
    rows = [
        {"campaign": c.name, "kind": c.kind, "criterion": c.criterion, "round": c.round, "open": c.is_open, **vars(p)}
        for c, p in found
    ]
    lines = [
        f"{row['campaign']:<24} {row['kind']:<12} {row['criterion'] or '-':<14} "
        f"{row['judgments']}/{row['slots']} judged{'' if row['open'] else ', closed'}"
        for row in rows
    ]
    show({"campaigns": rows}, as_json, "\n".join(lines) or "No campaigns yet: plaudit campaign create --help")


@campaign_app.command("close")
def close(name: CampaignName, workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Give no more tasks out. What is in progress may still be submitted."""
    _set_open(workspace, name, False, as_json)


@campaign_app.command("open")
def open_(name: CampaignName, workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Give tasks out again."""
    _set_open(workspace, name, True, as_json)


def _set_open(folder: Path, name: str, is_open: bool, as_json: bool) -> None:
    from plaudit.collect.campaigns import find_campaign, set_open

    with open_workspace(folder).store.database.writing() as connection:
        find_campaign(connection, name)
        set_open(connection, name, is_open, actor=_actor())
    show({"campaign": name, "open": is_open}, as_json, f"{name} is {'open' if is_open else 'closed'}.")


@people_app.command("invite")
def invite(
    role: Annotated[str, typer.Option("--role", help="annotator, researcher or admin.")] = "annotator",
    number: Annotated[int, typer.Option("--number", min=1, max=1000, help="Number of invitations.")] = 1,
    days: Annotated[float, typer.Option("--days", min=0.01, help="Days for which the invitations are valid.")] = 7.0,
    address: Annotated[
        str, typer.Option("--address", help="Address at which people reach the server.")
    ] = DEFAULT_ADDRESS,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Print links by which people make an account: each for one person, once."""
    from plaudit.collect.people import ROLES
    from plaudit.collect.people import invite as make

    chosen = next((known for known in ROLES if known == role), None)
    if chosen is None:
        raise DataError(f"--role {role}: one of {', '.join(ROLES)}.")
    store = open_workspace(workspace).store
    links = [f"{address.rstrip('/')}/join/{make(store, chosen, actor=_actor(), days=days)}" for _ in range(number)]
    note = f"These lead to {address}; name another place with --address." if address == DEFAULT_ADDRESS else ""
    if note and not as_json:
        typer.echo(note, err=True)
    show({"role": role, "links": links}, as_json, "\n".join(links))


@people_app.command("list")
def list_people(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Show the accounts."""
    from plaudit.collect.people import everybody

    with open_workspace(workspace).store.database.reading() as connection:
        rows = [vars(person) for person in everybody(connection)]
    lines = [f"{r['annotator']:<22} {r['login'] or '-':<28} {r['role']:<11} {r['state']}" for r in rows]
    show({"people": rows}, as_json, "\n".join(lines) or "No accounts yet: plaudit people invite --role admin")


@people_app.command("decide")
def decide(
    annotator: Annotator,
    reason: Why,
    include: Annotated[
        bool,
        typer.Option("--include/--leave-out", help="Whether the annotator's judgments are learnt from, from now on."),
    ],
    campaign: Annotated[str, typer.Option("--campaign", help="Limit the decision to this campaign.")] = "",
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Decide whether somebody's judgments train, and keep why. They stay in the log either way."""
    from plaudit.collect.people import decide as keep

    with open_workspace(workspace).store.database.writing() as connection:
        keep(connection, annotator, include, reason=reason, actor=_actor(), campaign=campaign)
    word = "train" if include else "do not train"
    show({"annotator": annotator, "included": include}, as_json, f"The judgments of {annotator} {word} from now on.")


@people_app.command("withdraw")
def withdraw(
    annotator: Annotator,
    keep_judgments: Annotated[
        bool, typer.Option("--keep-judgments/--drop-judgments", help="Whether the judgments are still learnt from.")
    ],
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Remove for good what names a person. The pseudonym stays in the log."""
    from plaudit.collect.people import withdraw as remove

    remove(open_workspace(workspace).store, annotator, actor=_actor(), keep_judgments=keep_judgments)
    show({"annotator": annotator}, as_json, f"What named {annotator} is gone.")


@audit_app.command("verify")
def verify(workspace: WorkspaceOption = DEFAULT_WORKSPACE, as_json: Json = False) -> None:
    """Check that no record was changed, taken out or put in between."""
    from plaudit.collect.audit import check

    with open_workspace(workspace).store.database.reading() as connection:
        found = check(connection)
    if found.first_broken is not None:
        raise DataError(f"the chain is broken at record {found.first_broken}: it, or one before it, was changed.")
    text = f"{found.records} records, none changed. The newest hash, to keep elsewhere: {found.newest}"
    show(vars(found), as_json, text)


@audit_app.command("show")
def show_audit(
    most: Annotated[int, typer.Option("--most", min=1, help="Number of records, the newest ones.")] = 50,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
    as_json: Json = False,
) -> None:
    """Print the newest records."""
    from sqlalchemy import select

    from plaudit.store.tables import audit

    with open_workspace(workspace).store.database.reading() as connection:
        query = select(audit).order_by(audit.c.number.desc()).limit(most)
        rows = [dict(row) for row in connection.execute(query).mappings()]
    lines = [
        "".join(
            sign if sign.isprintable() else repr(sign)[1:-1] for sign in line
        )  # what people wrote rules no terminal
        for line in (
            f"{row['number']:>7} {row['created']} {row['actor']:<22} {row['action']} {row['details']}" for row in rows
        )
    ]
    for row in rows:
        row["details"] = json.loads(row["details"])
    show({"records": rows}, as_json, "\n".join(lines))


def annotate(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on. Visitors from other machines need accounts.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    names: Annotated[
        list[str] | None, typer.Option("--name", help="Host name under which browsers reach the server.")
    ] = None,
    https: Annotated[bool, typer.Option("--https", help="The server is behind an https proxy.")] = False,
    arena: Annotated[list[str] | None, typer.Option("--arena", help="Policy to chat with; give at least two.")] = None,
    arena_name: Annotated[
        str, typer.Option("--arena-name", help="Campaign that keeps the arena's conversations.")
    ] = "arena",
    temperature: Annotated[float, typer.Option(min=0.01, help="Sampling temperature in the arena.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in the arena, tokens.")] = 256,
    workspace: WorkspaceOption = DEFAULT_WORKSPACE,
) -> None:
    """Serve the pages on which people judge, and on which researchers watch, until Ctrl-C.

    With --arena RUN --arena RUN people write to two policies at once and say which answers better.
    """
    from plaudit.collect.web.server import serve

    opened: Workspace = open_workspace(workspace)
    arenas: dict[str, Policies] = {}
    if arena:
        from plaudit.collect.arena import ensure_arena
        from plaudit.sampling.contestants import LoadedPolicies

        policies = LoadedPolicies(
            opened, arena, opened.config(), temperature=temperature, max_new_tokens=max_new_tokens
        )
        ensure_arena(opened.store, arena_name, policies.names, actor=_actor())
        arenas[arena_name] = policies
    serve(opened.store, host=host, port=port, names=names or [], https=https, say=typer.echo, arenas=arenas)
