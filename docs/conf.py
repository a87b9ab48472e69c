"""Sphinx: the manual in docs/, written in Markdown, with the reference drawn from the docstrings."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "bftkit"
copyright = "the bftkit authors"
version = release = installed_version("bftkit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # links out of docs/ (README, LICENSE) are for readers of the repository; a unit test checks them
    "myst.header",
]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": False}

html_theme = "furo"
html_title = "bftkit"
