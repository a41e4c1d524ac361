"""`python -m robustlens` is the `robustlens` command."""

import atexit
import gc
import sys

from robustlens import stopping
from robustlens.errors import StoppedError


def main() -> None:
    """Entry point of the command: signals are handled before anything that takes time is imported."""
    # The imports make some hundred thousand objects that live as long as the process: looking through them
    # for garbage, again and again and once more at its end, takes a quarter of a command that does little
    # else. It is looked for as rarely as Python 3.13 does; more rarely still costs memory, and gains nothing.
    gc.set_threshold(2_000)
    atexit.register(gc.freeze)
    code = StoppedError.exit_code
    try:
        with stopping.handled(last=True):
            from robustlens.cli import run, write_in_any_encoding

            write_in_any_encoding()
            code = run()
    except StoppedError as error:
        stopping.announce(str(error))
    sys.exit(code)


if __name__ == "__main__":
    main()
