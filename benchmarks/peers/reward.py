"""TRL's RewardTrainer on comparisons: python reward.py MODEL TRAIN VALIDATION OUTPUT RATE lora|full SEED.

Writes the differences of scores, chosen minus rejected, of the validation pairs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed
from trl import RewardConfig, RewardTrainer

folder, train, validation, output, rate, how, seed = sys.argv[1:8]
tokenizer = AutoTokenizer.from_pretrained(folder)


def texts(path: str) -> dict[str, list[str]]:
    """Both sides of each pair as Plaudit frames them, with an empty system message."""
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    system = [{"role": "system", "content": ""}]
    prompts = [
        tokenizer.apply_chat_template(system + row["prompt"], tokenize=False, add_generation_prompt=True)
        for row in rows
    ]
    return {
        side: [prompt + row[side] + tokenizer.eos_token for prompt, row in zip(prompts, rows, strict=True)]
        for side in ("chosen", "rejected")
    }


set_seed(int(seed))  # of the new head and the adapters, which are made before the trainer sets it
lora = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="SEQ_CLS")
model = AutoModelForSequenceClassification.from_pretrained(
    folder, num_labels=1, dtype=torch.bfloat16 if how == "lora" else torch.float32
)
model.config.pad_token_id = tokenizer.pad_token_id
arguments = RewardConfig(
    output_dir=tempfile.mkdtemp(), per_device_train_batch_size=8, learning_rate=float(rate), num_train_epochs=1,
    lr_scheduler_type="linear", warmup_steps=0.05, use_cpu=not torch.cuda.is_available(), bf16=True, report_to="none",
    gradient_checkpointing=False, save_strategy="no", logging_steps=20, max_length=None, seed=int(seed),
)  # fmt: skip
trainer = RewardTrainer(
    model, args=arguments, train_dataset=Dataset.from_dict(texts(train)), processing_class=tokenizer,
    peft_config=lora if how == "lora" else None,
)  # fmt: skip
trainer.train()
trained = trainer.model.eval()
sides = texts(validation)
scores = {}
with torch.no_grad():
    for side, given in sides.items():
        scores[side] = []
        for text in given:
            batch = tokenizer(text, return_tensors="pt", add_special_tokens=False).to(trained.device)
            scores[side].append(float(trained(**batch).logits[0, 0]))
differences = [a - b for a, b in zip(scores["chosen"], scores["rejected"], strict=True)]
Path(output).write_text(json.dumps(differences))
print("right", sum(d > 0 for d in differences) / len(differences))
