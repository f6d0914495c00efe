"""What other tools make of a saved model by the chat template that lies beside it."""

import json

import pytest
import torch
from conftest import make_model
from families import FAMILIES
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, GenerationConfig

from plaudit.config import Config, ModelSettings, resolve
from plaudit.evaluation.scoring_files import score_file
from plaudit.models.loading import load_causal, load_reward, reward_from_causal
from plaudit.models.network import make_trainable
from plaudit.models.saving import complete_export, save_causal, save_reward
from plaudit.models.score_facts import KEY, ScoreFacts
from plaudit.records import Prompt
from plaudit.rewards.scoring import Answered, RewardModelScores
from plaudit.text.chat import TokenSequence

SETTINGS = ModelSettings(dtype="float32")
QUESTION = {"role": "user", "content": "what should I do today"}
ANSWERS = ["It is 4.", "the moon is kind, of course!", "4", "    return 1"]


def model_of(family, folder):
    """A tiny model with the tokenizer of a family."""
    tokenizer = FAMILIES[family].tokenizer()
    make_model(
        folder, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )  # fmt: skip
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


def reward_model(family, tmp_path, settings=SETTINGS):
    start = reward_from_causal(load_causal(str(model_of(family, tmp_path / "base")), settings), seed=0)
    scorer = make_trainable(start.network, None, role="reward", seed=0, train_head=True)
    save_reward(scorer, start, tmp_path / "reward", ScoreFacts())
    return tmp_path / "reward"


def as_others_score(folder, conversations):
    """One batch, padded, as any pipeline would."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = tokenizer.apply_chat_template(
        conversations, return_tensors="pt", padding=True, return_dict=True, tokenize=True
    )
    with torch.no_grad():
        return model(**batch).logits[:, 0].tolist()


@pytest.mark.parametrize(
    "family", ["chatml", "llama-3", "gemma", "phi-3", "zephyr", "none, spaces", "alpaca", "qwen-3"]
)
@pytest.mark.parametrize("system_prompt", [None, "be kind"])
def test_a_reward_model_gives_others_the_scores_that_it_gives_here(family, system_prompt, tmp_path):
    if family == "gemma" and system_prompt:
        pytest.skip("its template takes no system message")
    folder = reward_model(family, tmp_path, SETTINGS.model_copy(update={"system_prompt": system_prompt}))
    rows = [{"prompt": [QUESTION], "completion": text} for text in ANSWERS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = resolve(overrides=["model.dtype=float32"])
    ours = [row["score"] for row in score_file(str(folder), tmp_path / "rows.jsonl", config, None)]
    theirs = as_others_score(folder, [[QUESTION, {"role": "assistant", "content": text}] for text in ANSWERS])
    assert ours == pytest.approx(theirs, abs=2e-4)
    assert len({round(score, 3) for score in ours}) == len(ANSWERS)


def test_a_sampled_answer_is_scored_as_its_text_is_by_others(tmp_path):
    folder = reward_model("chatml", tmp_path)
    model = load_reward(str(folder), SETTINGS)
    prompt = Prompt([QUESTION])
    ids = model.format.encode_response("It is 4.")[: -len(model.format.after_ids)]  # as a policy samples it
    sequence = TokenSequence(model.format.encode_prompt(prompt.messages), ids)
    answers = [Answered(prompt.messages, sequence, "It is 4.", True)]
    ours = RewardModelScores(model, 512)(answers).tolist()
    theirs = as_others_score(folder, [[QUESTION, {"role": "assistant", "content": "It is 4."}]])
    assert ours == pytest.approx(theirs, abs=2e-4)


@pytest.mark.parametrize(("kept", "past_end"), [({}, True), ({"mean": [0.0], "std": [1.0]}, False)])
def test_models_from_elsewhere_and_from_earlier_versions_are_read_at_their_own_place(kept, past_end, tmp_path):
    folder = reward_model("chatml", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    assert config.pop(KEY)["read_at"] == "template"
    (folder / "config.json").write_text(json.dumps({**config, KEY: kept} if kept else config))
    form = load_reward(str(folder), SETTINGS).format
    text = form.tokenizer.decode(form.encode_response("tea"))
    assert text.endswith("<|im_end|>\n" if past_end else "<|im_end|>")


def test_an_export_of_what_an_earlier_version_trained_ends_where_it_is_read(tmp_path):
    folder = reward_model("chatml", tmp_path)
    tokenizer = FAMILIES["chatml"].tokenizer()
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    del config[KEY]["read_at"]
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"prompt": [QUESTION], "completion": t}) + "\n" for t in ANSWERS)
    )
    settings = resolve(overrides=["model.dtype=float32", "model.system_prompt=be kind"])

    def ours(changes):
        return [row["score"] for row in score_file(str(folder), tmp_path / "rows.jsonl", changes, None)]

    before = ours(settings)
    complete_export(folder, settings.model)
    theirs = as_others_score(folder, [[QUESTION, {"role": "assistant", "content": text}] for text in ANSWERS])
    assert before == pytest.approx(theirs, abs=2e-4)
    assert ours(resolve(overrides=["model.dtype=float32"])) == pytest.approx(before, abs=2e-4)


def test_an_export_of_this_version_is_left_as_it_was_saved(tmp_path):
    settings = SETTINGS.model_copy(update={"system_prompt": "be kind", "stop_strings": ["###"]})
    model = load_causal(str(model_of("qwen-3", tmp_path / "base")), settings)
    save_causal(model.network, model, tmp_path / "policy")
    before = {file.name: file.read_bytes() for file in (tmp_path / "policy").iterdir()}
    complete_export(tmp_path / "policy", settings)
    assert {name: json.loads(b) if name.endswith(".json") else b for name, b in before.items()} == {
        file.name: json.loads(file.read_bytes()) if file.name.endswith(".json") else file.read_bytes()
        for file in (tmp_path / "policy").iterdir()
    }


def test_a_saved_policy_carries_its_system_prompt_and_stop_strings(tmp_path):
    settings = SETTINGS.model_copy(update={"system_prompt": "be kind", "stop_strings": ["\nuser", "###"]})
    model = load_causal(str(model_of("chatml", tmp_path / "base")), settings)
    save_causal(model.network, model, tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    text = tokenizer.apply_chat_template([QUESTION], tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nbe kind<|im_end|>\n")
    assert GenerationConfig.from_pretrained(tmp_path / "policy").stop_strings == ["\nuser", "###"]
    again = load_causal(str(tmp_path / "policy"), SETTINGS)  # without a word of either in the settings
    assert again.format.encode_prompt([QUESTION]) == model.format.encode_prompt([QUESTION])
    assert again.format.stop_strings == ["\nuser", "###"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "policy")


def test_the_date_of_a_template_is_a_setting(tmp_path):
    folder = model_of("dated", tmp_path / "base")
    config = Config.model_validate({"model": {"name": str(folder), "date": "2024-02-03"}})
    form = load_causal(str(folder), config.model).format
    assert "Today: 03 Feb 2024" in form.tokenizer.decode(form.encode_prompt([QUESTION]))
    assert config.model_dump(mode="json")["model"]["date"] == "2024-02-03"
