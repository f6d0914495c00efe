"""What the tests of the online loop share, around the workspace of the fixture `four_answers`."""

from safetensors.torch import load_file

import plaudit

WORTH = {"tea": 1.0, "moon": 0.0, "book": 2.0, "lamp": -1.0}


def function(workspace, name):
    return f"function:{workspace.path.parent / 'rewards.py'}:{name}"


def train(workspace, *changes):
    return plaudit.rl(workspace, workspace.config(overrides=list(changes)))


def algorithm(workspace, name):
    """Settings of an algorithm, those without which it does not run among them; further ones may follow its name."""
    name, *more = name.split()
    cost = [f"rl.lagrangian.cost={function(workspace, 'words')}"] if name == "ppo-lagrangian" else []
    return [f"rl.algorithm={name}", *cost, *more]


def weights(run):
    return load_file(run.model_folder / "model.safetensors")


def rows(run):
    return run.metrics()
