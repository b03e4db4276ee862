"""Whether a model can be had at all, found out in seconds: the libraries try again and again before they give up."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import BadInput


def require_reachable(name: str, revision: str | None = None) -> None:
    """Pass if a model ships with the package, is a folder, was downloaded before, or the hub answers.

    Raises:
        BadInput: none of these; the message says what to do instead.
    """
    if name == "pocket" or Path(name).is_dir():
        return
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise BadInput(f"There is no folder {name}. Give 'pocket', a folder with config.json and weights, or a hub id.")
    from huggingface_hub import constants, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
    except ValueError as error:
        raise BadInput(f"{name!r} is neither a folder nor a hub id: {error}") from None
    advice = f"Get {name} where there is a network, then give its folder in place of its name."
    if constants.HF_HUB_OFFLINE:
        raise BadInput(
            f"The model hub is switched off by HF_HUB_OFFLINE and {name} was not downloaded before. {advice}"
        )
    why = _silence(os.environ.get("HF_ENDPOINT", constants.ENDPOINT))
    if why is not None:
        raise BadInput(
            f"{name} is not on this machine, which is offline: the model hub does not answer ({why}). {advice}"
        )


def _silence(hub: str) -> str | None:
    """Why a hub does not answer; None if it does, whatever it says."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        urlopen(Request(hub, method="HEAD"), timeout=5).close()
    except HTTPError:
        return None
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))
    return None
