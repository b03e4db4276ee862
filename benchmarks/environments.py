"""An environment for each peer, made once: the same torch and transformers, then the peer."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parent.parent
PEERS = {"transformer_lens": "transformer-lens==4.3.0", "nnsight": "nnsight==0.8.1"}


def pinned(name: str) -> str:
    """The requirement of this package that the project was tested with."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{name}=="))


def python_of(contender: str, folder: Path, here: bool = False) -> Path:
    """The interpreter that runs a contender: this one, or the one of its own environment, made where it is missing.

    `here`: this one in any case, where the contender is installed in it already (a machine without a package index).

    Raises:
        RuntimeError: the environment cannot be made; the message is the end of what pip said.
    """
    if here and contender in PEERS and find_spec(contender) is None:
        raise RuntimeError(f"{contender} is not installed here")
    if here or contender not in PEERS:
        return Path(sys.executable)
    where = folder / f"venv-{contender.replace('_', '-')}"
    python, ready = where / "bin" / "python", where / "ready.txt"
    wanted = [[pinned("torch")], [pinned("transformers"), PEERS[contender]]]
    stamp = "\n".join(name for step in wanted for name in step)
    if ready.exists() and ready.read_text() == stamp:
        return python
    print(f"making the environment of {contender} in {where}", file=sys.stderr, flush=True)
    steps = [[sys.executable, "-m", "venv", str(where)]]
    steps += [[str(python), "-m", "pip", "install", "--quiet", *names] for names in wanted]
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "no message").splitlines()[-1])
    ready.write_text(stamp)
    return python
