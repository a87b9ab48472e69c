"""Sphinx: the manual in docs/, written in Markdown, with the reference drawn from the docstrings."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from pathlib import Path

project = "bftkit"
copyright = "the bftkit authors"  # noqa: A001 - the name is Sphinx's
version = release = installed_version("bftkit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # links out of docs/ serve readers of the repository; a unit test checks all links
    "docutils",  # docstrings are written for readers of the code first
    "ref.python",  # names that two modules share, such as PLUGIN
]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = "bftkit"


def _write_reference(docs: Path) -> None:
    """One page for each package that has modules, so that the reference never falls behind the folders."""
    pages = docs / "reference" / "generated"
    pages.mkdir(exist_ok=True)
    for old in pages.glob("*.md"):
        old.unlink()
    for source in (docs.parent / "bftkit", docs.parent / "protocols"):
        _write_packages(source, pages)


def _write_packages(source: Path, pages: Path) -> None:
    root = source.parent if source.name == "bftkit" else source
    for folder in sorted(path.parent for path in source.rglob("__init__.py") if path.parent != source):
        modules = sorted(folder.glob("*.py"))
        if not any(module.read_text().strip() for module in modules):
            continue  # a room that is planned and still empty
        package = ".".join(folder.relative_to(root).parts)
        page = [f"# {package}", ""]
        for module in modules:
            if module.stem == "__main__":
                continue
            name = package if module.stem == "__init__" else f"{package}.{module.stem}"
            if module.stem != "__init__":
                page += [f"## {module.stem}", ""]
            page += ["```{eval-rst}", f".. automodule:: {name}"]
            if module.stem == "__init__":
                page += ["   :no-members:"]  # what a package hands on is described where it is defined
            page += ["```", ""]
        (pages / f"{package}.md").write_text("\n".join(page))


_write_reference(Path(__file__).parent)
