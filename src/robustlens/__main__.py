"""`python -m robustlens` is the `robustlens` command."""

import sys

from robustlens import stopping
from robustlens.errors import StoppedError


def main() -> None:
    """Entry point of the command: signals are handled before anything that takes time is imported."""
    code = StoppedError.exit_code
    try:
        with stopping.handled(last=True):
            from robustlens.cli import run

            code = run()
    except StoppedError as error:
        stopping.announce(str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()
