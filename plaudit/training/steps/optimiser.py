"""What every loop shares: the optimiser step with its schedule, and checkpoints."""

from __future__ import annotations

import math
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plaudit import cpu
from plaudit.config import OptimiserSettings
from plaudit.errors import ModelError, WorkspaceError
from plaudit.models.network import Network, load_trainable_state, trainable_state
from plaudit.progress import say
from plaudit.workspace import Run


def total_norm(gradients: list[Tensor]) -> float:
    """Norm over all gradients together, computed in float32 or finer; 0 of none."""
    if gradients and all(map(cpu.serves, gradients)):
        return cpu.total_norm(gradients)
    return float(torch.nn.utils.get_total_norm(gradients))


class Optimiser:
    """AdamW on a role's trained weights, with a learning rate that depends on the step alone."""

    def __init__(self, network: Network, settings: OptimiserSettings, total_steps: int):
        self.network = network
        self.parameters: list[nn.Parameter] = network.trainable_parameters()
        self.settings = settings
        self.total_steps = total_steps
        self.steps_taken = 0
        matrices = [p for p in self.parameters if p.dim() > 1]
        others = [p for p in self.parameters if p.dim() <= 1]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=settings.learning_rate,
            betas=(0.9, settings.second_moment_decay),
            eps=settings.epsilon,
            fused=True,
        )

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        settings = self.settings
        warmup = math.ceil(settings.warmup_share * self.total_steps)
        if self.steps_taken < warmup:
            return settings.learning_rate * (self.steps_taken + 1) / warmup
        done = (self.steps_taken - warmup) / max(1, self.total_steps - warmup)
        decay = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return settings.learning_rate * max(0.0, decay[settings.schedule])

    def step(self) -> float:
        """Apply the gradients that have been summed up, clear them, and return their norm before clipping."""
        masters, most, fused = self.network.masters, self.settings.max_gradient_norm, cpu.knows(self.parameters)
        if masters is not None and not fused:
            masters.widen_gradients()
        norm = total_norm([gradient for gradient in self.gradients() if gradient is not None])
        if not math.isfinite(norm):
            raise ModelError(
                f"the gradient of optimiser step {self.steps_taken + 1} is {norm}, so nothing could be learnt "
                "from it; the run's last checkpoint is from before it.\nLook at the run's metrics.jsonl for what grew; "
                "a lower learning rate or a higher KL price usually mends it."
            )
        for group in self._adam.param_groups:
            group["lr"] = self.learning_rate
        if fused:
            cpu.take_step(self._adam, min(1.0, most / (norm + 1e-6)), masters)
        else:
            if norm > most:
                torch.nn.utils.clip_grads_with_norm_(self.parameters, most, torch.tensor(norm))
            self._adam.step()
            self.network.publish()
        self.discard()
        return norm

    def gradients(self) -> list[Tensor | None]:
        """Gradients of each parameter, as summed up since the last step; bfloat16 where that is one gradient of such a
        weight."""
        return [self.network.gradient_of(parameter) for parameter in self.parameters]

    def discard(self) -> None:
        """Clear the gradients without applying them; the schedule goes on."""
        self._adam.zero_grad(set_to_none=True)
        if self.network.masters is not None:
            self.network.masters.clear_gradients()
        self.steps_taken += 1

    def move_schedule_to(self, steps: int) -> None:
        """The schedule's place after updates that were left out."""
        self.steps_taken = steps

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"adam": self._adam.state_dict(), "steps_taken": self.steps_taken}

    def load_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._adam.load_state_dict(state["adam"])
        self.steps_taken = state["steps_taken"]


def save_checkpoint(run: Run, step: int, parts: dict[str, tuple[Network, Optimiser]], **more: Any) -> None:
    """Keep everything that `load_checkpoint` needs to go on after `step` steps; the last one is replaced whole."""
    content = {
        "step": step,
        "parts": {name: (trainable_state(network), optimiser.state()) for name, (network, optimiser) in parts.items()},
        **more,
    }
    path = run.path / "checkpoint.pt"
    partial = path.with_suffix(".partial")
    try:
        with open(partial, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())  # else a power cut may leave the new name with nothing behind it
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(run: Run, parts: dict[str, tuple[Network, Optimiser]]) -> dict[str, Any]:
    """Restore weights and optimisers; returns the checkpoint. Without one, {"step": 0}: the run starts afresh.

    Raises WorkspaceError for a checkpoint that is damaged, or of another kind of run.
    """
    path = run.path / "checkpoint.pt"
    if not path.exists():
        if "resumed" in run.info:
            say(f"{run.name} has no checkpoint yet: it starts again from its first step.")
        run.drop_metrics_from(0)
        return {"step": 0}
    content = _read_checkpoint(path)
    if content["parts"].keys() != parts.keys():
        raise WorkspaceError(f"{path} is a checkpoint of another kind of run.")
    for name, (network, optimiser) in parts.items():
        weights, optimiser_state = content["parts"][name]
        load_trainable_state(network, weights)
        optimiser.load_state(optimiser_state)
    run.drop_metrics_from(content["step"] + 1)
    return content


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Raises WorkspaceError for one that was cut off, or of which bytes were changed."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # the checksums that torch writes and does not read
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is another")
        content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict) or not {"step", "parts"} <= content.keys():
            raise ValueError("it holds something else")
    except MemoryError:
        raise
    except Exception as error:  # zipfile, pickle and torch have many kinds for damage
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise WorkspaceError(
            f"{path} is damaged, so the run cannot resume from it ({reason}).\n"
            "Restore it from a copy; or remove it, and --resume begins the run again from its first step."
        ) from None
    return content


def drop_checkpoint(run: Run) -> None:
    """Once the run's model is saved, its checkpoint is of no more use."""
    (run.path / "checkpoint.pt").unlink(missing_ok=True)
