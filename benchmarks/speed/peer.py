"""One job of TRL's, a repetition at a time: python peer.py JOB MODEL_FOLDER REWARD_MODEL_FOLDER."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import torch
from data import answers, prompts
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback
from turns import Turns

turns = Turns()
job, folder, reward_folder = sys.argv[1:4]
kind, _, variant = job.partition(":")
tokenizer = AutoTokenizer.from_pretrained(folder)
BATCH = 8
COMMON = {
    "output_dir": tempfile.mkdtemp(), "per_device_train_batch_size": BATCH, "learning_rate": 1e-6, "max_steps": 1000,
    "use_cpu": not torch.cuda.is_available(), "bf16": True, "gradient_checkpointing": False, "report_to": "none",
    "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no",
}  # fmt: skip
lora = (
    LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
    if "lora" in variant or kind == "rloo"
    else None
)


class Repetition(TrainerCallback):
    """A step of the trainer."""

    def on_step_begin(self, *_, **__):
        """Begins when it is our turn."""
        turns.next()


def templated(prompt: str) -> str:
    """As Plaudit frames it with an empty system message."""
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def train(trainer) -> None:
    """To the end, telling how many tokens each step has, padding left out. Padding-free batches have no masks."""
    plain = trainer.training_step

    def counted(model, inputs, *arguments, **options):
        masks = [inputs[name] for name in inputs if name.endswith("attention_mask")]
        turns.say(tokens=int(sum(mask.sum() for mask in masks)) if masks else inputs["input_ids"].numel())
        return plain(model, inputs, *arguments, **options)

    trainer.training_step = counted
    trainer.train()


questions = [templated(p) for p in prompts(BATCH * 8)]
chosen, rejected = answers(BATCH * 8, seed=0), answers(BATCH * 8, seed=1)
weights = {"dtype": torch.bfloat16 if lora or "pure" in variant else torch.float32}

if kind == "sft":
    from trl import SFTConfig, SFTTrainer

    model = AutoModelForCausalLM.from_pretrained(folder, **weights)
    rows = Dataset.from_dict({"prompt": questions, "completion": chosen})
    args = SFTConfig(
        **COMMON, max_length=None, padding_free="padded" not in variant,
        loss_type="chunked_nll" if "chunk" in variant else "nll",
    )  # fmt: skip
    trainer = SFTTrainer(
        model, args=args, train_dataset=rows, processing_class=tokenizer, peft_config=lora, callbacks=[Repetition()],
    )  # fmt: skip
    train(trainer)

if kind == "reward":
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, **weights)
    model.config.pad_token_id = tokenizer.pad_token_id
    sides = {
        "chosen": [q + a for q, a in zip(questions, chosen, strict=True)],
        "rejected": [q + a for q, a in zip(questions, rejected, strict=True)],
    }
    trainer = RewardTrainer(
        model, args=RewardConfig(**COMMON, max_length=None), train_dataset=Dataset.from_dict(sides),
        processing_class=tokenizer, peft_config=lora, callbacks=[Repetition()],
    )  # fmt: skip
    train(trainer)

if kind == "dpo":
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(folder, **weights)
    rows = Dataset.from_dict({"prompt": questions, "chosen": chosen, "rejected": rejected})
    trainer = DPOTrainer(
        model, args=DPOConfig(**COMMON, max_length=None, precompute_ref_log_probs=True), train_dataset=rows,
        processing_class=tokenizer, peft_config=lora, callbacks=[Repetition()],
    )  # fmt: skip
    train(trainer)

if kind == "generate":
    rows_at_once = int(variant)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(device)
    tokenizer.padding_side = "left"
    texts = [templated(p) for p in prompts(max(4, 2 * rows_at_once))]
    texts.sort(key=len)
    torch.manual_seed(0)
    while True:
        turns.next()
        tokens = 0
        for start in range(0, len(texts), rows_at_once):
            batch = tokenizer(
                texts[start : start + rows_at_once], return_tensors="pt", padding=True, add_special_tokens=False
            ).to(device)
            with torch.no_grad():
                out = model.generate(
                    **batch, do_sample=True, temperature=0.8, top_k=0, top_p=1.0, max_new_tokens=128,
                    pad_token_id=tokenizer.pad_token_id,
                )  # fmt: skip
            new = out[:, batch["input_ids"].shape[1] :]
            ends = (new == tokenizer.eos_token_id).int()
            tokens += int(((ends.cumsum(1) - ends) == 0).sum())
        turns.say(tokens=tokens)

if kind == "rloo":
    from trl import RLOOConfig, RLOOTrainer

    def shorter(completions, **_):
        """A reward."""
        return [-len(c) / 100 for c in completions]

    args = RLOOConfig(
        **{**COMMON, "per_device_train_batch_size": 32}, num_generations=4, max_completion_length=128, temperature=0.8,
        beta=0.05,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, **weights)
    asked = Dataset.from_dict({"prompt": [templated(p) for p in prompts(256)]})
    trainer = RLOOTrainer(
        model, reward_funcs=shorter, args=args, train_dataset=asked,
        processing_class=tokenizer, peft_config=lora, callbacks=[Repetition()],
    )  # fmt: skip
    plain = trainer._generate

    def generate(*arguments, **options):
        """Count what is generated."""
        found = plain(*arguments, **options)
        turns.say(tokens=sum(len(ids) for ids in found[1]))
        return found

    trainer._generate = generate
    trainer.train()

if kind == "ppo":  # TRL 1.12, the last with PPO
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    def scorer():
        """Reward or value model."""
        return AutoModelForSequenceClassification.from_pretrained(reward_folder, num_labels=1, **weights)

    plain = ppo_trainer.batch_generation

    def generate(model, queries, *arguments):
        """A step begins with its rollouts."""
        turns.next()
        found = plain(model, queries, *arguments)
        new = found[0][:, queries.shape[1] :]
        ends = (new == tokenizer.eos_token_id).int()
        turns.say(tokens=int(((ends.cumsum(1) - ends) == 0).sum()))
        return found

    ppo_trainer.batch_generation = generate
    args = PPOConfig(
        **{**COMMON, "max_steps": -1}, gradient_accumulation_steps=4, num_mini_batches=1, num_ppo_epochs=1,
        total_episodes=32_000, local_rollout_forward_batch_size=32, num_sample_generations=0, response_length=128,
        temperature=0.8, stop_token="eos", missing_eos_penalty=1.0, kl_coef=0.05,
    )  # fmt: skip
    asked = Dataset.from_dict({"input_ids": tokenizer([templated(p) for p in prompts(256)])["input_ids"]})
    policy, reference = (AutoModelForCausalLM.from_pretrained(folder, **weights) for _ in range(2))
    tokenizer.padding_side = "left"
    PPOTrainer(
        args, tokenizer, model=policy, ref_model=reference, reward_model=scorer(), value_model=scorer(),
        train_dataset=asked, eval_dataset=asked.select(range(32)),
    ).train()  # fmt: skip
