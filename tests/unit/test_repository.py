"""The repository keeps its own promises: no traces of one machine, no dead links, no citation of a missing rule.

Each check walks the files that git tracks (in a source distribution without git: all files), so that it holds for
what is published and not for what lies around.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Written in parts, so that this file does not name what it forbids.
MACHINE_PATHS = re.compile(r"(?<![A-Za-z0-9_.\-/])/(" + "|".join(("wo" + "rk", "ro" + "ot", "fa" + "rm")) + r")/")
REGISTRY_HOSTS = re.compile(
    r"\b("
    + "|".join(
        re.escape(host)
        for host in (
            "pypi" + ".org",
            "python" + "hosted.org",
            "registry." + "npmjs.org",
            "registry." + "yarnpkg.com",
            "deb." + "debian.org",
            "archive." + "ubuntu.com",
            "crates" + ".io",
            "proxy." + "golang.org",
        )
    )
    + r")\b"
)
RULE = re.compile(r"SAFETY\s+(?:#\s*)?rules?\s+((?:\d+(?:\s*[,–-]\s*|\s+and\s+|\s+to\s+)?)+)", re.IGNORECASE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
RULES = 29
FAULTS = 48


def tracked() -> list[Path]:
    """All tracked files that are there, sorted."""
    try:
        listed = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=True, text=True
        ).stdout.split("\0")
        paths = [ROOT / name for name in listed if name]
    except (OSError, subprocess.CalledProcessError):
        paths = [
            path for path in ROOT.rglob("*") if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
        ]
    return sorted(path for path in paths if path.is_file())


def texts(*suffixes: str) -> Iterator[tuple[str, str]]:
    """Name and text of every tracked text file, or of those with one of the suffixes."""
    for path in tracked():
        if suffixes and path.suffix not in suffixes:
            continue
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def lines_matching(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip():.120}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]


def anchors(markdown: str) -> set[str]:
    """The anchors of a page's headings, made as git forges and MyST make them."""
    headings = re.findall(r"^#{1,6} +(.+?)\s*$", FENCE.sub("", markdown), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def cited_rules(text: str) -> list[int]:
    """Every rule number that a text cites, with ranges reduced to their ends."""
    # A citation may be broken over two comment or docstring lines.
    joined = re.sub(r"\n[ \t]*#?[ \t]*", " ", text)
    return [int(number) for match in RULE.finditer(joined) for number in re.findall(r"\d+", match.group(1))]


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    assert lines_matching(MACHINE_PATHS) == []


def test_no_tracked_file_names_a_package_registry() -> None:
    assert lines_matching(REGISTRY_HOSTS) == []


def test_every_local_link_in_markdown_resolves() -> None:
    dead: list[str] = []
    for name, text in texts(".md"):
        for target in LINK.findall(FENCE.sub("", text)):
            if re.match(r"[a-z][a-z+.\-]*:", target):
                continue  # somewhere else in the world
            place, _, anchor = target.partition("#")
            page = (ROOT / name).parent / place if place else ROOT / name
            if not page.exists():
                dead.append(f"{name}: {target}: no such file")
            elif anchor and page.suffix == ".md" and anchor not in anchors(page.read_text(encoding="utf-8")):
                dead.append(f"{name}: {target}: no such heading")
    assert dead == []


def test_every_cited_safety_rule_exists() -> None:
    wrong = [
        f"{name}: SAFETY rule {number}"
        for name, text in texts(".py", ".md", ".toml")
        for number in cited_rules(text)
        if not 1 <= number <= RULES
    ]
    assert wrong == []


def test_citations_are_found_in_all_their_forms() -> None:
    """Without this the test above would pass by finding nothing."""
    assert cited_rules("see SAFETY rule 5.") == [5]
    assert cited_rules("(SAFETY rules 3, 4 and " + "31)") == [3, 4, 31]  # in two parts: this file is checked too
    assert cited_rules("# SAFETY\n    # rules 15–17") == [15, 17]


def test_the_safety_page_has_all_rules_in_order() -> None:
    page = (ROOT / "docs" / "SAFETY.md").read_text(encoding="utf-8")
    assert [int(number) for number in re.findall(r"^### Rule (\d+):", page, re.MULTILINE)] == list(range(1, RULES + 1))
    assert page.count("*Why.*") == RULES


def test_the_fault_catalogue_has_all_lines_in_order() -> None:
    page = (ROOT / "docs" / "FAULTS.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, FAULTS + 1))
    assert all(len(columns.split("|")) == 3 for _, columns in rows)


def test_every_decision_record_is_listed_and_shaped_alike() -> None:
    folder = ROOT / "docs" / "adr"
    records = sorted(path.name for path in folder.glob("[0-9]*.md"))
    index = (folder / "index.md").read_text(encoding="utf-8")
    assert records
    assert [name for name in records if f"({name})" not in index] == []
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    for name in records:
        text = (folder / name).read_text(encoding="utf-8")
        assert text.startswith(f"# {name[:4]}: "), name
        assert [part for part in ("Status:", "## Context", "## Decision", "## Consequences") if part not in text] == []


def contracts() -> list[dict[str, Any]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: list[dict[str, Any]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return found


def contract(words: str) -> dict[str, Any]:
    """The one contract whose name has these words."""
    (found,) = [one for one in contracts() if words in one["name"]]
    return found


@pytest.mark.parametrize("package", ["crypto", "network", "storage"])
def test_every_module_of_a_half_pure_package_is_declared_pure_or_driver(package: str) -> None:
    pure = set(contract("does no I/O")["source_modules"])
    drivers = set(contract("never reaches a driver")["forbidden_modules"])
    there = {f"bftkit.{package}.{path.stem}" for path in (ROOT / "bftkit" / package).glob("*.py")}
    there.discard(f"bftkit.{package}.__init__")
    assert sorted(there - pure - drivers) == [], "say in pyproject.toml whether the module may do I/O"
    assert sorted(pure & drivers) == []


def test_every_protocol_on_the_shelf_is_packaged_and_under_contract() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    shelf = {path.parent.name for path in (ROOT / "protocols").glob("*/__init__.py")}
    offered = {value.partition(":")[0] for value in project["project"]["entry-points"]["bftkit.protocols"].values()}
    packed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert shelf == offered
    assert {f"protocols/{name}" for name in shelf} == {path for path in packed if path.startswith("protocols/")}
    assert shelf <= set(project["tool"]["importlinter"]["root_packages"])
    assert shelf <= set(contract("does no I/O")["source_modules"])
    assert shelf == set(contract("no plug-in imports another")["modules"])
