"""`python -m robustlens` is the `robustlens` command."""

from robustlens.cli import main

main()
