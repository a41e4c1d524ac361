"""Hooks of mkdocs (mkdocs.yml): the parts of the site that lie outside docs/, or are made from the code.

A page may link to any file of the repository, as it does in a checkout: the file becomes a part of the site,
and the link leads there. README.md is the home page, every notebook a page; the reference has a page for each
room, with the names of its `__all__`; under each heading of pictures.md stands the figure of that name, drawn
from the sample study, whose report is part of the site.
"""

import importlib
import json
import os
import re
from pathlib import Path, PurePosixPath
from types import FunctionType, ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = Path(os.environ.get("SAMPLE_STUDY") or ROOT / "robustlens-out" / "sample") / "report"
"""The report of examples/every_figure.yaml; tools/build_docs.py makes it."""
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Documents of the repository's root, and the pages that they are."""
ROOMS = (
    "attacks",
    "objectives",
    "losses",
    "weights",
    "threat",
    "evaluation",
    "reliability",
    "certification",
    "explain",
    "models",
    "data",
    "study",
    "report",
    "results",
    "config",
    "compat",
    "compat.foolbox",
    "compat.torchattacks",
)
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what lies outside docs/."""
    for document, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / document).read_text(encoding="utf-8")))
    for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, site_path(repository_path(path)), content=notebook(path)))
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    for room in ("robustlens", *ROOMS):
        files.append(File.generated(config, f"reference/{room}.md", content=reference(room)))
    for path in sorted(SAMPLE.rglob("*")):
        if path.is_file():
            place = f"sample-report/{path.relative_to(SAMPLE).as_posix()}"
            files.append(File.generated(config, place, abs_src_path=str(path)))
    for file in [file for file in files if file.is_documentation_page()]:
        for target in linked(file.content_string, origin(file.src_uri)):
            if files.get_file_from_path(site_path(target)) is None:
                source = str(ROOT / target)
                files.append(File.generated(config, site_path(target), abs_src_path=source))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to their place in the site, and put the figures below their headings."""
    here = PurePosixPath(page.file.src_uri)
    source = origin(page.file.src_uri)

    def led(match: re.Match[str]) -> str:
        opened, target, anchor, closed = match.groups(default="")
        path = target_of(target, source)
        if path in (None, source):  # a notebook links to its own file
            return match[0]
        return f"{opened}{os.path.relpath(site_path(path), here.parent)}{anchor}{closed}"

    markdown = LINK.sub(led, markdown)
    return with_figures(markdown) if here.name == "pictures.md" else markdown


def origin(page: str) -> str:
    """The file of the repository that a page is made from."""
    roots = {name: path for path, name in PAGES.items()}
    if page.startswith("notebooks/"):
        return f"examples/{PurePosixPath(page).with_suffix('.ipynb')}"
    return roots.get(page, f"docs/{page}")


def site_path(path: str) -> str:
    """Where a file of the repository is in the site.

    >>> site_path("docs/flags.md"), site_path("README.md"), site_path("examples/wen2020.yaml")
    ('flags.md', 'index.md', 'examples/wen2020.yaml')
    """
    if path.startswith("examples/notebooks/"):
        return str(PurePosixPath(path).relative_to("examples").with_suffix(".md"))
    return PAGES.get(path, path.removeprefix("docs/"))


def repository_path(path: Path) -> str:
    """A file by its path in the repository."""
    return path.relative_to(ROOT).as_posix()


def target_of(target: str, source: str) -> str | None:
    """The file of the repository that a link of `source` leads to; None for any other link.

    A link to a folder leads to its README.md, or to the first of its files.
    """
    if "://" in target or target.startswith("mailto:"):
        return None
    path = Path(os.path.normpath(ROOT / PurePosixPath(source).parent / target))
    if path.is_dir():
        inside = [file for file in path.iterdir() if file.is_file()]
        path = min(inside, key=lambda file: (file.name != "README.md", file.name), default=path)
    return repository_path(path) if path.is_file() and path.is_relative_to(ROOT) else None


def linked(markdown: str, source: str) -> list[str]:
    """Files of the repository that a page links to."""
    targets = (target_of(match[2], source) for match in LINK.finditer(markdown))
    return [target for target in targets if target is not None]


def notebook(path: Path) -> str:
    """A notebook as a page: its texts, and its code in fences."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"]).rstrip()
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join([*parts, f"[This notebook as a file]({path.name})"]) + "\n"


def reference(room: str) -> str:
    """A page with the public names of a room, each from its docstring."""
    module = importlib.import_module("robustlens" if room == "robustlens" else f"robustlens.{room}")
    short = "rl" if room == "robustlens" else f"rl.{room}"
    parts = [
        f"# `{module.__name__}`",
        f"::: {module.__name__}\n    options: {{members: false, show_root_heading: false}}",
    ]
    for name in public_names(module):
        value = getattr(module, name)
        if not isinstance(value, ModuleType):
            options = f"{{heading: {short}.{name}, toc_label: {name}}}"
            parts.append(f"::: {definition(module.__name__, name, value)}\n    options: {options}")
    return "\n\n".join(parts) + "\n"


def public_names(module: ModuleType) -> list[str]:
    """Its `__all__`, or all that it defines itself."""
    own = [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    return [name for name in getattr(module, "__all__", own) if not name.startswith("_")]


def definition(module: str, name: str, value: Any) -> str:
    """The path at which a public name is defined."""
    if isinstance(value, type | FunctionType) and "<locals>" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    return f"{module}.{name}"


def with_figures(markdown: str) -> str:
    """The page of pictures with the drawing of each figure below its heading (`## Title {#name}`)."""

    def shown(match: re.Match[str]) -> str:
        heading, name = match[0], match[1]
        if not (SAMPLE / "figures" / f"{name}.svg").is_file():
            raise PluginError(f"docs/pictures.md: the sample report has no figure {name!r}; run `make docs`")
        return f"{heading}\n\n[![{name}](sample-report/figures/{name}.svg)](sample-report/index.html#{name})"

    return re.sub(r"^### .*\{#([a-z0-9-]+)\}$", shown, markdown, flags=re.MULTILINE)
