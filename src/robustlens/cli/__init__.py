"""The command line: errors become one line and an exit code, signals a stop that can be resumed."""

from robustlens.cli.commands import main, run

__all__ = ["main", "run"]
