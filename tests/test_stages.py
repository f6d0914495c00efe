"""The stages in order, on a tiny model."""

import plaudit


def test_every_stage_runs_in_order(workspace):
    sft = plaudit.sft(workspace)
    assert sft.result["held_out_loss_after"] < sft.result["held_out_loss_before"]
    plaudit.sample(workspace)
    judged = plaudit.judge(workspace)
    assert 0.5 < judged.result["agreement"]["raw"]["value"] <= 1
    plaudit.reward(workspace)
    plaudit.rl(workspace)
    plaudit.evaluate(workspace)
    plaudit.report(workspace)
    print(workspace.run("latest:rl").metrics())
    print(workspace.run("latest:evaluate").result)
