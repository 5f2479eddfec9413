"""The command line: one file per family of commands, thin; the only place that turns errors into exit codes."""

from harness.cli.main import main

__all__ = ["main"]
