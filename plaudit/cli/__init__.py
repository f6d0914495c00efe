"""The command line. A stage's command comes from its entry in `plaudit.stages`; `ending.py` says what went wrong.

Heavy modules are imported inside the commands, so that `plaudit --help` answers at once.
"""

from __future__ import annotations

import typer

from plaudit.cli import collecting, data, ending, judging, measuring, planning, recipes, workspace
from plaudit.cli.options import WithDefault
from plaudit.cli.stages import stage_command
from plaudit.stages import STAGES

app = typer.Typer(
    cls=ending.Commands,
    help="The whole RLHF loop: collect preferences, learn a reward model, optimise a policy, prove the result.\n\n"
    "Try it: plaudit quickstart. On your own data: init, import, sft, sample, judge, reward, rl, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class _PolicyByDefault(WithDefault):
    """`plaudit evaluate [KEY=VALUE]...` means `plaudit evaluate policy`."""

    default = "policy"


evaluate_app = typer.Typer(cls=_PolicyByDefault, help="Measure a policy (the default) or a reward model.")
evaluate_app.command("policy")(stage_command(STAGES["evaluate"]))
evaluate_app.command("reward")(measuring.evaluate_reward)
study_app = typer.Typer(help="Questions that take many runs to answer.", no_args_is_help=True)
study_app.command("reward-scaling")(stage_command(STAGES["study"]))

app.command()(recipes.quickstart)
app.command()(workspace.init)
app.command("import")(workspace.import_)
app.add_typer(data.data_app, name="data")
app.add_typer(collecting.campaign_app, name="campaign")
app.command()(collecting.annotate)
app.add_typer(collecting.people_app, name="people")
app.add_typer(judging.judges_app, name="judges")
for _kind, _stage in STAGES.items():
    if _stage.typed == _kind != "evaluate":
        app.command(_kind)(stage_command(_stage))
app.add_typer(evaluate_app, name="evaluate")
app.command("run")(recipes.run_)
app.command()(measuring.report)
app.command()(measuring.score)
app.command()(measuring.chat)
app.command()(workspace.agreement)
app.command()(workspace.status)
app.command()(workspace.config)
app.add_typer(workspace.export_app, name="export")
app.add_typer(workspace.snapshot_app, name="snapshot")
app.add_typer(collecting.audit_app, name="audit")
app.command()(planning.power)
app.add_typer(study_app, name="study")


def main() -> None:
    """Entry point: no traceback for a mistake; exit code 2 for one, 130 for Ctrl-C."""
    ending.run(app)
