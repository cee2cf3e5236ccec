"""From the id of a model on the Hugging Face hub to a local folder with its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dpclean.errors import SetupError


def cached(name: str, files: Sequence[str]) -> Path | None:
    """The folder of an id in the local cache, None where it has none of the files. Uses no network.

    Raises SetupError for a name that cannot be an id.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in files:
        try:
            found = try_to_load_from_cache(name, file)
        except HFValidationError as error:
            raise SetupError(
                f"denoiser {name!r} is neither a folder nor a possible hub id", "check --denoiser"
            ) from error
        if isinstance(found, str):
            return Path(found).parents[file.count("/")]
    return None


def fetched(name: str, files: Sequence[str]) -> Path:
    """The folder of an id with those of the files that the hub has; others are not fetched. Raises SetupError."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise SetupError(
            f"denoiser {name!r} is no folder, and the local cache of the hub lacks it or a part of it",
            "check --denoiser, or fetch it without HF_HUB_OFFLINE",
        )
    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except RepositoryNotFoundError as error:
        raise SetupError(
            f"denoiser {name!r} is no folder, and the hub shows no such model",
            "check --denoiser; a private or gated model is shown after 'hf auth login'",
        ) from error
    except Exception as error:  # the client, its HTTP library and its transports raise a dozen unrelated classes
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].removeprefix("Got: ").rstrip(".")
        raise SetupError(
            f"denoiser {name!r} is no folder, and the hub cannot be asked: {reason}",
            "check --denoiser and the network",
        ) from error
