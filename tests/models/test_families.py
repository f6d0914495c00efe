"""Families that are supported in part: what cannot end well is refused with one message before any training."""

import pytest
import torch
from conftest import make_model, make_tokenizer
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from plaudit.config import LoraSettings, ModelSettings
from plaudit.errors import ModelError
from plaudit.models.loading import load_causal, reward_from_causal
from plaudit.models.network import make_trainable
from plaudit.models.saving import rehearse_causal, rehearse_reward, save_causal, save_reward
from plaudit.models.score_facts import ScoreFacts
from plaudit.sampling.in_process import sample
from plaudit.text.batches import collate
from plaudit.text.chat import Stops, TokenSequence

SETTINGS = ModelSettings(dtype="float32")
BODY = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8}
FAMILIES = {
    "mixtral": {**BODY, "num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {**BODY, **EXPERTS},
    "qwen3_moe, dense first": {**BODY, **EXPERTS, "mlp_only_layers": [0]},
    "deepseek_v3": {
        **BODY, "moe_intermediate_size": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
        "topk_group": 1, "n_shared_experts": 1, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1, "num_key_value_heads": 4,
    },
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "context_length": 64},
    "lfm2": {**BODY, "full_attn_idxs": [1]},
    "granite": {**BODY, "logits_scaling": 1.0},
}  # fmt: skip
SEQUENCES = [TokenSequence([1, 50, 60, 70], [80, 90, 2]), TokenSequence([1, 33], [44, 55, 66, 77, 2])]


def family(name, folder):
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = AutoConfig.for_model(name.split(",")[0], vocab_size=len(tokenizer), **FAMILIES[name])
    config.eos_token_id, config.bos_token_id, config.pad_token_id, config.initializer_range = 2, 1, 0, 0.2
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        if parameter.dim() > 1 and parameter.std() < 1e-3:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def trained(network, lora, **options):
    policy = make_trainable(network, lora, role="policy", seed=0, **options)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    policy.publish()
    return policy


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "qwen3_moe, dense first", "deepseek_v3"])
@pytest.mark.parametrize("lora", [LoraSettings(rank=4), None])
def test_a_mixture_of_experts_is_saved_as_it_was_trained_and_what_has_no_adapter_is_said(name, lora, tmp_path, capsys):
    model = load_causal(family(name, tmp_path / "base"), SETTINGS)
    policy = trained(model.network, lora)
    rehearse_causal(policy, model, SETTINGS, tmp_path)
    ours = policy.log_probs(collate(SEQUENCES))[0].detach()
    save_causal(policy, model, tmp_path / "saved")
    theirs = load_causal(str(tmp_path / "saved"), SETTINGS).network.log_probs(collate(SEQUENCES))[0]
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-4, rtol=1e-4)
    assert ("LoRA adapts" in capsys.readouterr().err) == (lora is not None)
    assert not (tmp_path / "rehearsal").exists()


def test_a_family_without_a_sequence_classifier_is_refused_before_training(tmp_path):
    start = reward_from_causal(load_causal(family("granite", tmp_path / "base"), SETTINGS), seed=0)
    scorer = make_trainable(start.network, LoraSettings(rank=4), role="reward", seed=0, train_head=True)
    with pytest.raises(ModelError, match=r"no sequence classifier.*granite"):
        rehearse_reward(scorer, start, SETTINGS, ScoreFacts(), tmp_path)


@pytest.mark.parametrize("name", ["mamba", "rwkv", "lfm2"])
def test_a_family_that_cannot_be_decoded_here_is_refused_with_one_message(name, tmp_path):
    network = load_causal(family(name, tmp_path / "base"), SETTINGS).network
    with pytest.raises(ModelError, match=f"{name} models cannot be sampled"):
        sample(network, [[5, 6, 7]], stops=Stops(frozenset({2})), max_new_tokens=3, seed=0)


def test_a_whole_pass_that_is_not_what_was_decoded_is_found(tiny_model, monkeypatch):
    network = load_causal(str(tiny_model), SETTINGS).network
    options = {"stops": Stops(frozenset({2})), "max_new_tokens": 3, "seed": 0}
    plain = type(network).log_probs
    monkeypatch.setattr(type(network), "log_probs", lambda *a, **k: (plain(*a, **k)[0] - 0.2, None))
    with pytest.raises(ModelError, match=r"0\.2 nats off"):
        sample(network, [[5, 6, 7]], **options)
    monkeypatch.undo()
    sample(network, [[5, 6, 7]], **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ids_beyond_the_tokenizer_are_never_sampled_and_have_no_share_of_the_rest(dtype, tmp_path):
    folder = make_model(tmp_path / "padded", vocab_size=640, tie_word_embeddings=False)
    network = load_causal(str(folder), ModelSettings(dtype=dtype)).network
    known = len(AutoTokenizer.from_pretrained(folder))
    assert network.vocabulary == known < 640
    (completions,) = sample(
        network, [[5, 6, 7]], stops=Stops(frozenset()), max_new_tokens=8, seed=0, samples_per_prompt=40, temperature=3.0
    )
    assert max(id for c in completions for id in c.token_ids) < known
    sequences = [TokenSequence([5, 6, 7], c.token_ids) for c in completions]
    whole = network.log_probs(collate(sequences), temperature=3.0)[0]
    sampled = torch.tensor([c.log_probs for c in completions])
    assert float((whole - sampled).abs().mean()) < (1e-4 if dtype == "float32" else 0.02)
    logits = network.logits(collate([TokenSequence([5, 6], [7])]))
    assert logits.shape == (1, known)


def test_training_all_weights_of_a_padded_vocabulary_leaves_the_padding(tmp_path):
    folder = make_model(tmp_path / "padded", vocab_size=640, tie_word_embeddings=False)
    policy = make_trainable(load_causal(str(folder), SETTINGS).network, None, role="policy", seed=0)
    policy.log_probs(collate(SEQUENCES))[0].sum().backward()
    gradient = policy.head.weight.grad
    assert gradient[: policy.vocabulary].abs().sum() > 0
    assert gradient[policy.vocabulary :].abs().sum() == 0


def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(tmp_path):
    folder = make_model(tmp_path / "short")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|turn|>")
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="some tokens have no weights"):
        load_causal(str(folder), SETTINGS)


def test_long_rope_is_used_up_to_where_it_changes_and_it_is_said(tmp_path, capsys):
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 32, "factor": 4.0,
    }  # fmt: skip
    model = load_causal(str(make_model(tmp_path / "long", rope_parameters=rope)), SETTINGS)
    assert model.context_length == 32
    assert "beyond 32 tokens" in capsys.readouterr().err
    short, long = TokenSequence([5, 6], [7, 8]), TokenSequence([5] * 12, [9] * 20)
    alone = model.network.log_probs(collate([short]))[0][0, :2]
    beside = model.network.log_probs(collate([short, long]))[0][0, :2]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-5)


def test_a_composite_config_has_the_context_of_its_text_part(tmp_path):
    from dataclasses import replace

    model = load_causal(str(make_model(tmp_path / "m")), SETTINGS)
    text = dict(BODY, head_dim=8, sliding_window=8, max_position_embeddings=64)
    config = AutoConfig.for_model("gemma3", text_config=text)
    assert replace(model, config=config).context_length == 64


def test_an_adapter_is_saved_by_itself_as_peft_reads_it(tiny_model, tmp_path):
    model = load_causal(str(tiny_model), SETTINGS)
    policy = trained(model.network, LoraSettings(rank=4))
    save_causal(policy, model, tmp_path / "run" / "model")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)


def test_a_reward_models_adapter_has_its_head(tiny_model, tmp_path):
    start = reward_from_causal(load_causal(str(tiny_model), SETTINGS), seed=0)
    scorer = trained(start.network, LoraSettings(rank=4), train_head=True)
    save_reward(scorer, start, tmp_path / "run" / "model", ScoreFacts())
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model").eval()
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    adapted = PeftModel.from_pretrained(base, str(tmp_path / "run" / "adapter")).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, atol=1e-4, rtol=1e-4)


def test_weights_are_written_in_the_models_precision_and_read_as_they_were(tiny_model, tmp_path):
    settings = ModelSettings(dtype="bfloat16")
    model = load_causal(str(tiny_model), settings)
    policy = trained(model.network, LoraSettings(rank=4))
    save_causal(policy, model, tmp_path / "saved")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert saved.dtype == torch.bfloat16
    again = load_causal(str(tmp_path / "saved"), settings).network
    gap = (policy.log_probs(collate(SEQUENCES))[0] - again.log_probs(collate(SEQUENCES))[0]).abs().mean()
    assert float(gap) < 0.05


def test_a_large_model_is_written_in_several_files_with_an_index(tiny_model, tmp_path, monkeypatch):
    from plaudit.models import saving

    monkeypatch.setattr(saving, "BYTES_OF_A_FILE", 10_000)
    model = load_causal(str(tiny_model), SETTINGS)
    policy = trained(model.network, LoraSettings(rank=4))
    ours = policy.log_probs(collate(SEQUENCES))[0].detach()
    save_causal(policy, model, tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 1
    again = load_causal(str(tmp_path / "saved"), SETTINGS).network.log_probs(collate(SEQUENCES))[0]
    torch.testing.assert_close(ours, again.detach(), atol=1e-4, rtol=1e-4)


def test_a_disk_too_small_for_the_model_is_said_before_training(tiny_model, tmp_path, monkeypatch):
    import shutil

    model = load_causal(str(tiny_model), SETTINGS)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(ModelError, match="Make room first"):
        rehearse_causal(model.network, model, SETTINGS, tmp_path)
