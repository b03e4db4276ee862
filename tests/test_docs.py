"""What the pages say to write runs as it is written, in a fresh interpreter that has imported `cutaway` alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def test_the_python_of_pages_runs() -> None:
    blocks = [
        re.findall(r"```python\n(.*?)```", (DOCS / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
        for page in ("statistics", "sweeps")
    ]
    code = "\n".join(block for page in blocks for block in page)
    assert all(blocks) and "cutaway.stats" in code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
