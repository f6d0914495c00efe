"""Whether this process computes by the CPU kernels, or by PyTorch alone.

`model.cpu_kernels`, as the model that was loaded last has it; the variable goes before it.
"""

from __future__ import annotations

import os

from plaudit.errors import ConfigError

VARIABLE = "PLAUDIT_CPU_KERNELS"
CHOICES = ("auto", "off")
_setting = "auto"


def use(setting: str) -> None:
    """Take a model's setting. Where that is auto, the process keeps memory that it frees from now on.

    Raises ConfigError for a variable that is neither auto nor off.
    """
    global _setting
    named = os.environ.get(VARIABLE)
    if named is not None and named not in CHOICES:
        raise ConfigError(f"{VARIABLE}={named}: it is auto or off.")
    _setting = setting
    if is_on():
        from plaudit.cpu import memory

        memory.keep()


def is_on() -> bool:
    """Whether kernels are used where they can be."""
    return os.environ.get(VARIABLE, _setting) != "off"
