"""What Plaudit saves, transformers loads alone and computes the same with."""

import json

import pytest
import torch
from conftest import make_model, make_tokenizer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from plaudit.config import LoraSettings, ModelSettings
from plaudit.errors import ModelError
from plaudit.models.loading import load_causal, load_reward, reward_from_causal
from plaudit.models.network import make_trainable
from plaudit.models.saving import save_causal, save_reward
from plaudit.models.score_facts import ScoreFacts
from plaudit.text.batches import collate
from plaudit.text.chat import TokenSequence

SETTINGS = ModelSettings(dtype="float32")
SEQUENCES = [TokenSequence([1, 50, 60, 70], [80, 90, 2]), TokenSequence([1, 33], [44, 55, 66, 77, 2])]

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = {
    "llama": {**SIZES, "num_key_value_heads": 2},
    "qwen2": {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {**SIZES, "num_key_value_heads": 2, "head_dim": 8},
    "mistral": {**SIZES, "num_key_value_heads": 2},
    "gemma2": {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "final_logit_softcapping": 5.0},
    "gpt_neox": SIZES,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    """A tiny random model of each family."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = AutoConfig.for_model(request.param, vocab_size=len(tokenizer), **FAMILIES[request.param])
    config.eos_token_id, config.bos_token_id, config.pad_token_id = 2, 1, 0
    folder = tmp_path / request.param
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [LoraSettings(rank=4), None])
def test_a_saved_policy_gives_the_same_log_probs_in_transformers_alone(family, tmp_path, lora):
    model = load_causal(str(family), SETTINGS)
    policy = make_trainable(model.network, lora, role="policy", seed=0)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        ours = policy.log_probs(collate(SEQUENCES))[0]
    save_causal(policy, model, tmp_path / "saved")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    for row, sequence in enumerate(SEQUENCES):
        ids = torch.tensor([sequence.prompt_ids + sequence.response_ids])
        with torch.no_grad():
            log_probs = theirs(ids).logits.float().log_softmax(-1)[0, len(sequence.prompt_ids) - 1 : -1]
        expected = log_probs.gather(1, torch.tensor(sequence.response_ids)[:, None]).squeeze(1)
        torch.testing.assert_close(ours[row, : len(expected)], expected, atol=1e-4, rtol=1e-4)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == model.format.tokenizer.chat_template


def test_a_saved_reward_model_gives_the_same_scores_in_transformers_alone(family, tmp_path):
    start = reward_from_causal(load_causal(str(family), SETTINGS), seed=0)
    scorer = make_trainable(start.network, LoraSettings(rank=4), role="reward", seed=0, train_head=True)
    with torch.no_grad():
        for parameter in scorer.trainable_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
        ours = scorer.scores(collate(SEQUENCES))
    facts = ScoreFacts(mean=(0.5,), std=(2.0,), temperatures=(1.5,))
    save_reward(scorer, start, tmp_path / "saved", facts)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        alone = [theirs(torch.tensor([s.prompt_ids + s.response_ids])).logits[0, 0] for s in SEQUENCES]
        expected = torch.stack(alone)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)

    again = load_reward(str(tmp_path / "saved"), SETTINGS)
    with torch.no_grad():
        torch.testing.assert_close(again.network.scores(collate(SEQUENCES)), ours, atol=1e-5, rtol=1e-5)
    assert again.scores == facts


def test_a_saved_folder_names_no_path_of_this_machine(tiny_model, tmp_path):
    model = load_causal(str(tiny_model), SETTINGS)
    save_causal(model.network, model, tmp_path / "saved")
    files = list((tmp_path / "saved").glob("*.json"))
    assert {"config.json", "tokenizer.json"} <= {file.name for file in files}
    for file in files:
        assert str(tiny_model) not in file.read_text(encoding="utf-8")


def test_pad_is_not_end_in_a_saved_folder_even_when_it_was_before(tmp_path):
    folder = make_model(tmp_path / "same")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    model = load_causal(str(folder), SETTINGS)
    save_causal(model.network, model, tmp_path / "saved")
    saved = AutoTokenizer.from_pretrained(tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert saved.pad_token_id == config.pad_token_id != saved.eos_token_id
    assert config.vocab_size > saved.pad_token_id


def test_a_folder_without_tokenizer_is_refused_with_what_to_do(tmp_path):
    folder = make_model(tmp_path / "bare")
    for file in folder.glob("*token*"):
        file.unlink()
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    with pytest.raises(ModelError, match=r"no tokenizer.*\n.*tokenizer\.json"):
        load_causal(str(folder), SETTINGS)


def test_a_causal_model_is_not_taken_for_a_reward_model(tiny_model, tmp_path):
    with pytest.raises(ModelError):
        load_reward(str(tmp_path / "nowhere"), SETTINGS)


def test_a_model_whose_logits_are_not_its_head_of_the_last_state_is_refused(tmp_path):
    folder = make_model(tmp_path / "scaled")
    config = AutoConfig.for_model("granite", vocab_size=420, **SIZES, num_key_value_heads=2, logits_scaling=8.0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    with pytest.raises(ModelError, match="log-probs would be wrong"):
        load_causal(str(folder), SETTINGS)


def test_saving_leaves_no_half_written_folder_when_the_disk_is_full(tiny_model, tmp_path, monkeypatch):
    model = load_causal(str(tiny_model), SETTINGS)
    save_causal(model.network, model, tmp_path / "saved")
    before = json.loads((tmp_path / "saved" / "config.json").read_text())

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model.format.tokenizer), "save_pretrained", full)
    with pytest.raises(OSError, match="No space"):
        save_causal(model.network, model, tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["saved"]


def test_bfloat16_keeps_changes_that_are_finer_than_it_holds(tiny_model, tmp_path):
    """A base on bfloat16's grid, changed by a tenth of a unit in the last place: to nearest, nothing would be left."""
    theirs = AutoModelForCausalLM.from_pretrained(tiny_model).bfloat16().float()
    change = {
        n: torch.randn(p.shape[0], 1) @ torch.randn(1, p.shape[-1])
        for n, p in theirs.named_parameters()
        if p.dim() == 2
    }
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name in change:
                change[name] = change[name].sign() * parameter.abs() / 2560
                parameter += change[name]
    theirs.save_pretrained(tmp_path / "changed")
    make_tokenizer().save_pretrained(tmp_path / "changed")
    first, second = (load_causal(str(tmp_path / "changed"), ModelSettings(dtype="bfloat16")) for _ in range(2))
    before = AutoModelForCausalLM.from_pretrained(tiny_model).bfloat16().float().base_model.state_dict()
    kept = wanted = 0.0
    for name, value in first.network.body.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert value.equal(second.network.body.state_dict()[name])  # every load is the same model
        if "layers" in name and value.dim() == 2:
            delta = change[f"model.{name}"]
            kept += float(((value.float() - before[name]) * delta).sum())
            wanted += float(delta.square().sum())
            assert (theirs.state_dict()[f"model.{name}"].bfloat16().float() - before[name]).abs().max() == 0
        else:
            assert value.dim() == 2 or value.equal(before[name].bfloat16())
    assert kept / wanted == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("role", ["causal", "reward"])
def test_all_weights_trained_are_held_and_computed_alike_in_policy_and_reference(tiny_model, role):
    """Without LoRA in bfloat16: the same bfloat16 weights on both sides, so that they start exactly equal."""
    settings = ModelSettings(dtype="bfloat16", lora=None)
    model = load_causal(str(tiny_model), settings)
    network = model.network if role == "causal" else reward_from_causal(model, seed=0).network
    trained = make_trainable(network, None, role="x", seed=0, train_head=role == "reward")
    batch = collate(SEQUENCES)
    with torch.no_grad():
        if role == "causal":
            assert network.log_probs(batch)[0].equal(trained.log_probs(batch)[0])
        else:
            assert network.scores(batch).equal(trained.scores(batch))


def test_a_pad_token_that_a_model_lacks_is_the_mean_of_its_others_at_every_load(tmp_path):
    """A row drawn anew would be another model each time, and likelier than every word where logits are far below 0."""
    folder = make_model(tmp_path / "m", tie_word_embeddings=False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    first, second = (load_causal(str(folder), SETTINGS) for _ in range(2))
    new = first.format.tokenizer.pad_token_id
    assert new == len(tokenizer)
    for weight in (first.network.body.get_input_embeddings().weight, first.network.head.weight):
        torch.testing.assert_close(weight[new], weight[:new].mean(dim=0))
    assert first.network.head.weight.equal(second.network.head.weight)
