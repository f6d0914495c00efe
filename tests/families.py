"""Tokenizers in the form of public model families: their templates, their control tokens, their way with spaces."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

WORDS = "It is 4. Yes, of course! return 1 what should I do today be kind and brief the moon tea river user assistant"

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
DATED = LLAMA3.replace("{{ bos_token }}", "{{ bos_token }}Today: {{ strftime_now('%d %b %Y %H:%M:%S') }}\n", 1)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}{% set role = m['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% else %}"
    "{% set loop_messages = messages %}{% set system = '' %}{% endif %}{% for m in loop_messages %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() "
    "+ ' [/INST]' }}{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
QWEN3 = (
    "{%- set ns = namespace(last=messages|length - 1) %}"
    "{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}{%- set content = m.content %}{%- set reasoning = '' %}"
    "{%- if '</think>' in content %}{%- set reasoning = content.split('</think>')[0].split('<think>')[-1] %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or reasoning) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}<|User|>{{ m['content'] }}"
    "{% elif m['role'] == 'assistant' %}<|Assistant|>{{ m['content'].split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4_MINI = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}"
    "{% elif m['role'] == 'assistant' %}{{ 'ASSISTANT: ' + m['content'] + eos_token }}"
    "{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
ALPACA = (  # writes no end token, and a line break behind the beginning of an answer
    "{% for m in messages %}{{ '### ' + m['role'] + ':\n' + m['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """template    None for none
    special        tokens that are special in tokenizer.json alone
    rstrip         whether those swallow white space behind them
    spaces         whether spaces are a mark before words, one before each text, as in SentencePiece's models
    """

    template: str | None
    eos: str
    special: tuple[str, ...] = ()
    bos: str | None = None
    adds_bos: bool = False
    rstrip: bool = False
    spaces: bool = False

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Made afresh."""
        tokenizer = _with_mark_for_spaces() if self.spaces else _byte_level()
        named = [token for token in (self.eos, self.bos, "<pad>") if token]
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in named])
        tokenizer.add_special_tokens(
            [AddedToken(t, special=True, normalized=False, rstrip=self.rstrip) for t in self.special]
        )
        tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ("<think>", "</think>")])
        if self.adds_bos:
            processor = TemplateProcessing(
                single=f"{self.bos} $A", special_tokens=[(self.bos, tokenizer.token_to_id(self.bos))]
            )
            tokenizer.post_processor = processor
        return PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, eos_token=self.eos, bos_token=self.bos, pad_token="<pad>",
            chat_template=self.template,
        )  # fmt: skip


FAMILIES = {
    "chatml": Family(CHATML, "<|im_end|>", ("<|im_start|>",)),
    "llama-3": Family(
        LLAMA3,
        "<|end_of_text|>",
        ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        bos="<|begin_of_text|>",
        adds_bos=True,
    ),
    "dated": Family(
        DATED, "<|end_of_text|>", ("<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"), bos="<|begin_of_text|>"
    ),
    "gemma": Family(GEMMA, "<eos>", ("<start_of_turn>", "<end_of_turn>"), bos="<bos>", adds_bos=True, spaces=True),
    "llama-2": Family(LLAMA2, "</s>", bos="<s>", adds_bos=True, spaces=True),
    "mistral": Family(MISTRAL, "</s>", bos="<s>", adds_bos=True, spaces=True),
    "qwen-3": Family(QWEN3, "<|im_end|>", ("<|im_start|>", "<|endoftext|>")),
    "r1": Family(R1, "<|end_of_sentence|>", ("<|User|>", "<|Assistant|>"), bos="<|begin_of_sentence|>"),
    "phi-3": Family(
        PHI3, "<|endoftext|>", ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>"), rstrip=True, spaces=True
    ),
    "phi-4-mini": Family(PHI4_MINI, "<|endoftext|>", ("<|end|>", "<|user|>", "<|assistant|>", "<|system|>")),
    "zephyr": Family(ZEPHYR, "</s>", bos="<s>", spaces=True),
    "vicuna": Family(VICUNA, "</s>", bos="<s>", adds_bos=True, spaces=True),
    "alpaca": Family(ALPACA, "</s>", bos="<s>", spaces=True),
    "none, bytes": Family(None, "<|endoftext|>"),
    "none, spaces": Family(None, "</s>", bos="<s>", adds_bos=True, spaces=True),
}


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    return tokenizer


def _with_mark_for_spaces() -> Tokenizer:
    """As Llama 2 has it: a mark for each space and one before each text, bytes for what is unknown."""
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("▁+[^▁]*"), "isolated")
    learner.train_from_iterator([WORDS] * 4, trainers.BpeTrainer(vocab_size=200, show_progress=False))
    learnt = __import__("json").loads(learner.to_str())["model"]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(learnt["vocab"], key=learnt["vocab"].get)]
    vocabulary = {token: place for place, token in enumerate(dict.fromkeys(names))}
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer
