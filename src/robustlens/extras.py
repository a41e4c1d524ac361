"""Packages that are installed when they are asked for, and the command that an error suggests for them."""

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def install_extra(extra: str) -> str:
    """The command that installs an extra: from the checkout, where the package runs from one."""
    if _is_checkout():
        return f'pip install -c constraints.txt -e ".[{extra}]" in {_ROOT}'
    return f'pip install "robustlens[{extra}]"'


def install_package(package: str) -> str:
    """The command that installs another package, in the version that a checkout tells."""
    if _is_checkout():
        return f"pip install -c {_ROOT / 'constraints.txt'} {package}"
    return f"pip install {package}"


def _is_checkout() -> bool:
    """Whether the package lies in its own repository, and not in a folder of installed packages."""
    return (_ROOT / "src" / "robustlens" / "extras.py").is_file() and (_ROOT / "constraints.txt").is_file()
