"""A tokenizer of one's own, from the documents that a model is to learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from plaudit.errors import DataError

PAD, END_OF_TEXT, TURN, END_OF_TURN = "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, so that fine-tuning can teach turns afterwards."""


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> Any:
    """Byte-level BPE of at most so many tokens, with the tokens of a chat; no text is unknown to it.

    Sennrich et al. 2016 (arXiv:1508.07909) over bytes as in GPT-2. Raises DataError for a size below 260: 256 bytes
    and four special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    least = 256 + 4
    if vocabulary_size < least:
        raise DataError(f"`pretrain.vocabulary_size` is {vocabulary_size}; {least} are needed for bytes and turns.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[PAD, END_OF_TEXT, TURN, END_OF_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        additional_special_tokens=[TURN, END_OF_TURN],
        chat_template=CHAT_TEMPLATE,
    )
