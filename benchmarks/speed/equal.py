"""Whether both programs of a job compute the same: losses and gradient norms of one batch in float32.

    python benchmarks/speed/equal.py [--peers FOLDER]

Eight prompts with answers, or pairs of them, of uneven length; every weight is trained. The policy is SmolLM2-135M with
its weights moved, so that it differs from DPO's reference. Writes equal.json beside this file's parent and prints a
table; ends with 1 where a loss differs by more than 0.0001 of itself, or a norm by more than 0.001.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from data import answers, prompts

HERE = Path(__file__).parent
BATCH = 8
NAMES = {"sft": "SFT", "reward": "Reward model", "dpo": "DPO"}
LOSS, NORM = 1e-4, 1e-3
"""Most that two may differ by, relative; sums of the norms are of 135 million squares."""
MOVED = 0.02
"""Standard deviation of what is added to a policy's weights, in units of each tensor's own."""


def by_plaudit(base: str, moved: str, reward: str) -> dict[str, tuple[float, float]]:
    """(loss, gradient norm) of each job."""
    from plaudit.config import ModelSettings, OptimiserSettings, PreferSettings
    from plaudit.models.loading import load_causal, load_reward
    from plaudit.models.network import Network, make_trainable
    from plaudit.objectives import bradley_terry
    from plaudit.text.batches import collate
    from plaudit.text.chat import TokenSequence
    from plaudit.training.data.judged_prompts import JudgedPrompt, PairJudgment
    from plaudit.training.steps.optimiser import Optimiser
    from plaudit.training.steps.preference import Learner, parts_of_a_step
    from plaudit.training.steps.supervised import likelihood_step

    settings = ModelSettings(name=moved, lora=None, system_prompt="", dtype="float32", device="cpu")
    model, reference = load_causal(moved, settings), load_causal(base, settings)
    form, rate, budget = model.format, OptimiserSettings(learning_rate=1e-6), settings.tokens_per_micro_batch
    chosen, rejected = (
        [
            TokenSequence(form.encode_prompt([{"role": "user", "content": p}]), form.encode_response(a))
            for p, a in zip(prompts(BATCH), answers(BATCH, seed=seed), strict=True)
        ]
        for seed in (0, 1)
    )

    def trainable(network: Network) -> tuple[Network, Optimiser]:
        made = make_trainable(network, None, role="policy", seed=0, train_head=True)
        return made, Optimiser(made, rate, 1)

    found = {"sft": likelihood_step(*trainable(model.network), chosen, budget=budget)}
    scorer, optimiser = trainable(load_reward(reward, settings).network)
    scores = scorer.scores(collate([side for pair in zip(chosen, rejected, strict=True) for side in pair]))
    loss = bradley_terry(scores[::2], scores[1::2], scores.new_ones(BATCH)).mean()
    loss.backward()
    found["reward"] = float(loss.detach()), optimiser.step()
    policy, optimiser = trainable(model.network)
    sums = [reference.network.log_probs(collate(sides))[0].sum(dim=1).tolist() for sides in (chosen, rejected)]
    known = {f"{side}{i}": value for side, values in zip("cr", sums, strict=True) for i, value in enumerate(values)}
    learner = Learner(policy, reference.network, known, PreferSettings(), budget, model.context_length)
    pairs = [
        JudgedPrompt(str(i), [f"c{i}", f"r{i}"], [chosen[i], rejected[i]], [PairJudgment(0, 1, 1.0)], [])
        for i in range(BATCH)
    ]
    total = 0.0
    for part in parts_of_a_step(learner, pairs):
        part.loss.backward()
        total += float(part.loss.detach())
    found["dpo"] = total, optimiser.step()
    return found


def by_peer(base: str, moved: str, reward: str) -> dict[str, tuple[float, float]]:
    """The same from TRL's trainers, told to take one step."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(base)
    common = {
        "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": BATCH, "learning_rate": 1e-6, "max_steps": 1,
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True, "logging_steps": 1, "max_length": None,
    }  # fmt: skip

    def causal(folder: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def templated(prompt: str) -> str:
        messages = [{"role": "system", "content": ""}, {"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    questions = [templated(p) for p in prompts(BATCH)]
    chosen, rejected = answers(BATCH, seed=0), answers(BATCH, seed=1)
    whole = {
        side: [q + a for q, a in zip(questions, some, strict=True)]
        for side, some in (("chosen", chosen), ("rejected", rejected))
    }
    scorer = AutoModelForSequenceClassification.from_pretrained(reward, num_labels=1, dtype=torch.float32)
    scorer.config.pad_token_id = tokenizer.pad_token_id
    texts = {"prompt": questions, "completion": chosen}
    sides = {"prompt": questions, "chosen": chosen, "rejected": rejected}
    named = {"processing_class": tokenizer}
    trainers = {
        "sft": lambda: SFTTrainer(
            causal(moved), args=SFTConfig(**common, padding_free=True), train_dataset=Dataset.from_dict(texts), **named
        ),
        "reward": lambda: RewardTrainer(
            scorer, args=RewardConfig(**common), train_dataset=Dataset.from_dict(whole), **named
        ),
        "dpo": lambda: DPOTrainer(
            causal(moved), ref_model=causal(base), args=DPOConfig(**common), train_dataset=Dataset.from_dict(sides),
            **named,
        ),
    }  # fmt: skip
    found = {}
    for job, make in trainers.items():
        trainer = make()
        loss = trainer.train().training_loss
        found[job] = loss, next(row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row)
    return found


def make_moved(base: str, folder: Path, *, seed: int = 0) -> str:
    """A copy of a model whose weights differ a little."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += MOVED * weight.std() * torch.randn_like(weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


def main() -> int:
    """Both, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", type=Path, default=HERE.parent / "peers", help="where the peers' environments are")
    arguments = parser.parse_args()
    from models import make_models

    with tempfile.TemporaryDirectory() as name:
        models = make_models("", Path(name))
        folders = models.causal, make_moved(models.causal, Path(name) / "moved"), models.reward
        peer = subprocess.run(
            [str(arguments.peers / "trl/bin/python"), __file__, "peer", *folders], check=True, text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        theirs = json.loads(peer.stdout.splitlines()[-1])
        ours = by_plaudit(*folders)
    (HERE.parent / "equal.json").write_text(json.dumps({"ours": ours, "peer": theirs}, indent=2) + "\n")
    print("| | our loss | TRL's | our gradient norm | TRL's |\n|---|---|---|---|---|")
    equal = True
    for job, title in NAMES.items():
        (loss, norm), (its_loss, its_norm) = ours[job], theirs[job]
        print(f"| {title} | {loss:.6f} | {its_loss:.6f} | {norm:.5g} | {its_norm:.5g} |")
        equal &= abs(loss - its_loss) <= LOSS * its_loss and abs(norm - its_norm) <= NORM * its_norm
    return 0 if equal else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["peer"]:
        print(json.dumps(by_peer(*sys.argv[2:])))
    else:
        sys.exit(main())
