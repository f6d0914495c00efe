"""Models on the meta device, whose tensors have no values: what asks for one fails, as it would wait for a GPU.

Work that runs there to its end waits for nothing, and with `OneDevice` takes nothing from the CPU.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM

from plaudit.models import attention
from plaudit.models.network import Network

META = torch.device("meta")


def tensors(*values):
    """All that are somewhere in these."""
    return [x for x in tree_leaves(values) if isinstance(x, torch.Tensor)]


class OneDevice(TorchDispatchMode):
    """Within, an operation on tensors of another device than the meta device fails."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        assert {x.device.type for x in tensors(args, kwargs, result)} <= {"meta"}, function
        return result


def without_values(family, sizes):
    """A network of packed batches in bfloat16."""
    special = {"pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **sizes, **special, vocab_size=150)
    with META:
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.register(), dtype=torch.bfloat16)
    return Network(model.eval().base_model, model.get_output_embeddings(), packs=True)
