"""Which commit of the checkout something was made from."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_revision(root: Path) -> str | None:
    """The checkout's commit, with ``-dirty`` where files were changed; None outside git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None
