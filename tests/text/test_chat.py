import pytest
from conftest import make_tokenizer

from plaudit.errors import DataError, ModelError
from plaudit.text.chat import ChatFormat, ensure_pad_token


def test_prompt_and_response_join_to_the_conversation_the_template_writes():
    form = ChatFormat(make_tokenizer())
    turns = [{"role": "user", "content": "what should I do"}]
    ids = form.encode_prompt(turns) + form.encode_response("a good answer")
    whole = form.tokenizer.apply_chat_template(
        [*turns, {"role": "assistant", "content": "a good answer"}], tokenize=False
    )
    assert form.tokenizer.decode(ids) + "\n" == whole
    assert ids[-1] == form.end_id == form.tokenizer.eos_token_id


def test_end_of_turn_is_the_templates_token_even_when_it_is_not_eos():
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|turn|>"]})
    tokenizer.chat_template = tokenizer.chat_template.replace("<|end|>", "<|turn|>")
    form = ChatFormat(tokenizer, generation_eos=[tokenizer.eos_token_id])
    assert form.tokenizer.convert_ids_to_tokens(form.end_id) == "<|turn|>"
    assert form.stop_ids == {form.end_id, tokenizer.eos_token_id}


def test_only_one_bos_even_when_tokenizer_and_template_both_add_one():
    tokenizer = make_tokenizer()
    from tokenizers.processors import TemplateProcessing

    bos = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    ids = ChatFormat(tokenizer).encode_prompt([{"role": "user", "content": "tea"}])
    assert ids.count(tokenizer.bos_token_id) == 2  # user's turn and assistant's: both from the template
    assert ids[1] != tokenizer.bos_token_id


def test_a_prompt_over_the_limit_is_refused_and_never_cut():
    with pytest.raises(DataError, match=r"\d+ tokens, the limit is 5"):
        ChatFormat(make_tokenizer()).encode_prompt([{"role": "user", "content": "tea " * 50}], limit=5)


def test_system_prompt_is_put_before_conversations_that_have_none():
    form = ChatFormat(make_tokenizer(), system_prompt="be kind")
    text = form.tokenizer.decode(form.encode_prompt([{"role": "user", "content": "tea"}]))
    assert text.startswith("<|start|>system\nbe kind")
    own = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "tea"}]
    assert "be kind" not in form.tokenizer.decode(form.encode_prompt(own))


def test_a_tokenizer_without_template_is_used_plainly():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    form = ChatFormat(tokenizer)
    assert form.tokenizer.decode(form.encode_prompt([{"role": "user", "content": "the river"}])) == "the river"
    assert form.end_id == tokenizer.eos_token_id


def test_pad_is_never_the_end_token():
    tokenizer = make_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert ensure_pad_token(tokenizer)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert not ensure_pad_token(tokenizer)


def test_a_tokenizer_without_end_token_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        ChatFormat(tokenizer)


def test_a_users_turn_continues_the_sampled_ids_as_the_template_would():
    from conftest import make_tokenizer

    form = ChatFormat(make_tokenizer())
    turns = [{"role": "user", "content": "tea"}, {"role": "assistant", "content": "book"}]
    prompt = form.encode_prompt(turns[:1])
    sampled = form.encode_response("book")
    after = form.encode_user_turn("moon", after_end=True)
    assert prompt + sampled + after == form.encode_prompt([*turns, {"role": "user", "content": "moon"}])
    assert form.encode_user_turn("moon", after_end=False) == [form.end_id, *after]


def test_a_stop_string_may_be_spelt_by_a_special_token():
    tokenizer = make_tokenizer()
    form = ChatFormat(tokenizer, stop_strings=["<|start|>"])
    ids = tokenizer("a good answer<|start|>user", add_special_tokens=False)["input_ids"]
    place = ids.index(tokenizer.convert_tokens_to_ids("<|start|>"))
    assert form.ended_by_text(ids[: place + 1])
    assert not form.ended_by_text(ids[:place])
    assert form.decode_response(ids) == "a good answer"
