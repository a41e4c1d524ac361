"""`python -m robustlens` is the `robustlens` command."""

from robustlens.cli.commands import main

main()
