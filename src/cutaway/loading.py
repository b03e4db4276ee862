"""Loading a model and its tokenizer: safetensors only, no remote code, nothing unpickled."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from .errors import BadInput
from .hub import require_reachable
from .model import Model
from .wording import prose


def load(
    name_or_path: str | Path,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
) -> Model:
    """Load a model with transformers: safetensors only, no remote code, nothing unpickled.

    Args:
        name_or_path: `"pocket"` (ships with the package), a folder, or a hub id.
        revision: branch, tag or commit on the hub.
        device: for example `"cuda"`; `"auto"` spreads the layers over what there is (needs accelerate, in the extra
            `cutaway[offload]`). Default: CPU. A model that was loaded with a `device_map` of your own goes into
            `cutaway.Model` as it is, layers offloaded to the CPU or to disk included.
        dtype: default float32; `"auto"` keeps the checkpoint's own.
        attn_implementation: `"eager"` or `"sdpa"`; default: transformers' choice.

    Raises:
        BadInput: the model is not there, the hub does not answer, or it has no safetensors weights.
        Refused: it cannot be opened (see `Model`).
    """
    require_reachable(str(name_or_path), revision)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pocket = str(name_or_path) == "pocket"
    path = str(Path(__file__).parent / "pocket") if pocket else str(name_or_path)
    wanted = _dtype(dtype)
    if device == "auto" and find_spec("accelerate") is None:
        raise BadInput(
            "device='auto' spreads a model over devices with accelerate, which is not installed. Install it "
            "(pip install 'cutaway[offload]'), or name one device, such as 'cuda' or 'cpu'."
        )
    options: dict[str, Any] = {"trust_remote_code": False, "revision": revision}
    if revision is None:
        del options["revision"]
    try:
        hf = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=wanted,
            use_safetensors=True,
            **({"attn_implementation": attn_implementation} if attn_implementation else {}),
            **({"device_map": "auto"} if device == "auto" else {}),
            **options,
        )
    except Exception as error:  # whatever other people's code makes of damaged files
        raise BadInput(_why_not_loaded(path, error)) from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
    except Exception as error:  # noqa: BLE001 - as above: then only ids can be given
        print(f"cutaway: {path} has no usable tokenizer ({_first_line(error)}); give ids.", file=sys.stderr)
        tokenizer = None
    if device not in (None, "auto"):
        hf.to(device)  # type: ignore[arg-type]
    return Model(hf.eval(), tokenizer, name="pocket" if pocket else None)


def _dtype(dtype: str | torch.dtype | None) -> Any:
    if dtype is None:
        return torch.float32
    if isinstance(dtype, str) and dtype != "auto":
        found = getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise BadInput(f"{dtype!r} is not a dtype. Use float32, float64, bfloat16, float16 or auto.")
        return found
    return dtype


def _first_line(error: BaseException) -> str:
    return prose((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


def _why_not_loaded(path: str, error: BaseException) -> str:
    return (
        f"{path!r} could not be loaded: {_first_line(error)} "
        "Give 'pocket', a folder with config.json and safetensors weights, or a hub id that this machine can reach."
    )
