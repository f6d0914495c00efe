"""Models by their names on the Hugging Face hub: it is said when it is asked, and not waited for."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from plaudit.errors import ModelError
from plaudit.progress import say

PATIENCE = 5.0
"""Seconds that the hub has to answer."""
KNOWN = "A model is the built-in one, a run (see `plaudit status`), a Hugging Face folder, or a name on the hub."


@cache
def find(name: str) -> str:
    """What transformers is to load: the name itself, or where the hub does not answer the folder of the kept copy.

    Raises ModelError when the hub has no such model, or does not answer and there is no copy. Asked once a process.
    """
    if constants.HF_HUB_OFFLINE:
        return _kept_copy(name, "and HF_HUB_OFFLINE says not to ask the hub")
    say(f"`{name}` is neither a run nor a folder here: asking the Hugging Face hub for it.")
    try:
        HfApi().model_info(name, timeout=PATIENCE)
    except HFValidationError:
        raise ModelError(f"`{name}` is neither a run, a folder, nor a name that the hub can have. {KNOWN}") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model `{name}`, or shows it only to those who have logged in (`hf auth login`). {KNOWN}"
        ) from None
    except HfHubHTTPError:
        return name  # it answers; what transformers then meets, it says
    except Exception as error:  # each HTTP library has its own for no answer
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:100]
        return _kept_copy(name, f"and the hub cannot be reached ({said})")
    return name


def _kept_copy(name: str, why: str) -> str:
    """The folder in which an earlier download lies."""
    try:
        folder = snapshot_download(name, local_files_only=True)
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        folder = None
    if folder is None or not (Path(folder) / "config.json").exists():
        raise ModelError(f"`{name}` is neither a run nor a folder here, {why}. {KNOWN}") from None
    say(f"`{name}`: {why.removeprefix('and ')}; its copy in the cache is taken.")
    return str(folder)
