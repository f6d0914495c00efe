"""One job of Plaudit's, a repetition at a time: python ours.py JOB MODEL_FOLDER REWARD_MODEL_FOLDER.

JOB is kind:variant+option, such as sft:lora+compile.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from data import answers, prompts
from turns import Turns

from plaudit.config import Config, LoraSettings, ModelSettings, OptimiserSettings, PreferSettings, resolve
from plaudit.models.loading import load_causal, reward_from_causal
from plaudit.text.chat import TokenSequence

turns = Turns()
job, folder, reward_folder = sys.argv[1:4]
job, _, option = job.partition("+")
kind, _, variant = job.partition(":")
LORA = LoraSettings(rank=16, alpha=32, targets="attention")
lora = LORA if "lora" in variant or kind in ("generate", "rloo") else None
settings = ModelSettings(
    name=folder, lora=lora, system_prompt="", compile=option == "compile",
    activation_checkpointing=option == "checkpointing",
)  # fmt: skip
RATE = OptimiserSettings(learning_rate=1e-6)
BATCH = 8
BUDGET = settings.tokens_per_micro_batch


def encoded(count: int, seed: int) -> list[TokenSequence]:
    """Prompt and answer of each."""
    form = model.format
    return [
        TokenSequence(form.encode_prompt([{"role": "user", "content": p}]), form.encode_response(a))
        for p, a in zip(prompts(count), answers(count, seed=seed), strict=True)
    ]


if kind not in ("rloo", "ppo"):
    model = load_causal(folder, settings)

if kind in ("sft", "reward", "dpo"):
    from plaudit.models.network import make_trainable
    from plaudit.training.steps.optimiser import Optimiser

if kind == "sft":
    from plaudit.training.steps.supervised import likelihood_step

    policy = make_trainable(model.network, lora, role="policy", seed=0)
    optimiser = Optimiser(policy, RATE, 1000)
    rows = encoded(BATCH * 8, 0)
    step = 0
    while True:
        turns.next()
        at = step % 8 * BATCH
        turns.say(tokens=sum(map(len, rows[at : at + BATCH])))
        likelihood_step(policy, optimiser, rows[at : at + BATCH], budget=BUDGET)
        step += 1

if kind == "reward":
    from plaudit.objectives import bradley_terry
    from plaudit.text.batches import collate
    from plaudit.training.data.judged_prompts import JudgedPrompt, PairJudgment, prompt_groups

    scorer = make_trainable(reward_from_causal(model, seed=0).network, lora, role="reward", seed=0, train_head=True)
    optimiser = Optimiser(scorer, RATE, 1000)
    chosen, rejected = encoded(BATCH * 8, 0), encoded(BATCH * 8, 1)
    step = 0
    while True:
        turns.next()
        at = step % 8 * BATCH
        turns.say(tokens=sum(map(len, chosen[at : at + BATCH] + rejected[at : at + BATCH])))
        pair = [PairJudgment(0, 1, 1.0)]
        batch = [JudgedPrompt(str(i), ["a", "b"], [chosen[i], rejected[i]], pair, []) for i in range(at, at + BATCH)]
        for group in prompt_groups(batch, BUDGET):
            scores = scorer.scores(collate([s for prompt in group for s in prompt.sequences], device=scorer.device))
            (bradley_terry(scores[::2], scores[1::2], scores.new_ones(len(group))).sum() / BATCH).backward()
        optimiser.step()
        step += 1

if kind == "dpo":
    from plaudit.training.data.judged_prompts import JudgedPrompt, PairJudgment
    from plaudit.training.steps.preference import Learner, parts_of_a_step

    policy = make_trainable(model.network, lora, role="policy", seed=0)
    optimiser = Optimiser(policy, RATE, 1000)
    chosen, rejected = encoded(BATCH * 8, 0), encoded(BATCH * 8, 1)
    known: dict[str, float] = {f"{side}{i}": -100.0 for side in "cr" for i in range(BATCH * 8)}
    learner = Learner(policy, model.network, known, PreferSettings(), BUDGET, model.context_length)
    step = 0
    while True:
        turns.next()
        at = step % 8 * BATCH
        turns.say(tokens=sum(map(len, chosen[at : at + BATCH] + rejected[at : at + BATCH])))
        batch = [
            JudgedPrompt(str(i), [f"c{i}", f"r{i}"], [chosen[i], rejected[i]], [PairJudgment(0, 1, 1.0)], [])
            for i in range(at, at + BATCH)
        ]
        for part in parts_of_a_step(learner, batch):
            part.loss.backward()
        optimiser.step()
        step += 1

if kind == "generate":
    from plaudit.sampling.in_process import sample

    rows_at_once = int(variant)
    ids = [s.prompt_ids for s in encoded(max(4, 2 * rows_at_once), 0)]
    seed = 0
    while True:
        turns.next()
        drawn = sample(
            model.network, ids, stops=model.format.stops, max_new_tokens=128, seed=seed, temperature=0.8,
            sequences_per_batch=rows_at_once,
        )  # fmt: skip
        turns.say(tokens=sum(len(c.token_ids) for group in drawn for c in group))
        seed += 1

if kind in ("rloo", "ppo"):
    import plaudit

    home = Path(tempfile.mkdtemp())
    (home / "shorter.py").write_text(
        "def shorter(prompts, responses):\n    return [-len(r) / 100 for r in responses]\n"
    )
    own = {
        "rloo": [
            "model.lora={rank: 16, alpha: 32, targets: attention}", "rl.prompts_per_step=8", "rl.samples_per_prompt=4",
            f"rl.reward=function:{home / 'shorter.py'}:shorter", "model.tokens_per_micro_batch=8192",
        ],
        "ppo": [
            "model.lora=null", "rl.prompts_per_step=32", f"rl.reward={reward_folder}", "rl.missing_eos_score=-1",
            "model.tokens_per_micro_batch=8192",
        ],
    }  # fmt: skip
    config: Config = resolve(
        overrides=[
            f"model.name={folder}", "model.system_prompt=''", f"rl.algorithm={kind}", f"rl.policy={folder}",
            "rl.max_new_tokens=128", "rl.temperature=0.8", "rl.minibatches=1", "rl.epochs=1", "rl.kl_coefficient=0.05",
            "rl.steps=1000", "rl.save_every=1000", "rl.optimiser.learning_rate=1e-6", "data.held_out_share=0",
            "rl.value_optimiser.learning_rate=1e-6", *own[kind],
        ]
    )  # fmt: skip
    workspace = plaudit.init(home / "w", config=config)
    lines = "".join(json.dumps({"prompt": p}) + "\n" for p in prompts(256))
    (home / "prompts.jsonl").write_text(lines)
    plaudit.import_file(workspace.store, home / "prompts.jsonl", kind="prompts", held_out_share=0.0)
    import plaudit.training.online as online

    plain = online.roll_out

    def roll_out(*arguments, **options):  # type: ignore[no-untyped-def]
        """A step begins with its rollouts."""
        turns.next()
        episodes = plain(*arguments, **options)
        turns.say(tokens=sum(len(e.token_ids) for e in episodes))
        return episodes

    online.roll_out = roll_out
    plaudit.rl(workspace, config)
