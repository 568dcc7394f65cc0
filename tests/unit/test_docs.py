"""What the documentation names is there: files, tests, commands and options, settings, words of `Producer`, make targets."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from penstock_producers import Producer
from penstock_worker.cli import app
from penstock_worker.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = ("schemas", "producers", "worker", "migrations", "tests")

page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def links(page: Path) -> list[tuple[str, str]]:
    """Text and target of every link to a file."""
    found = re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", without_blocks(page.read_text()))
    return [(text, target) for text, target in found if not target.startswith(("http://", "https://", "#"))]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def words_of_code(page: Path) -> Iterator[str]:
    """Inline code, and the lines of code blocks."""
    text = page.read_text()
    for block in re.findall(r"^```.*?\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", without_blocks(text))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `penstock ...`, without comments; what stands in brackets or capitals is the reader's to fill in."""
    for line in words_of_code(page):
        if re.fullmatch(r"penstock [a-z-]+( \| [a-z-]+)+", line):  # a list of commands
            yield from ([name] for name in line.removeprefix("penstock ").split(" | "))
        elif match := re.match(r"(?:\$ )?penstock ([a-z][^#|>;]*)", line):
            yield match[1].split()


@page
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for _, target in links(page) if not (page.parent / target.partition("#")[0]).exists()] == []


@page
def test_tests_exist(page: Path) -> None:
    """A link whose text is a test's name leads to the file that has it."""
    named = [(text.strip("`"), target) for text, target in links(page) if text.strip("`").startswith("test_")]
    missing = [
        f"{name} in {target}"
        for name, target in named
        if not name.endswith(".py") and f"def {name}(" not in (page.parent / target).read_text()
    ]
    assert missing == []


@page
def test_commands_exist(page: Path) -> None:
    root = typer.main.get_command(app)
    assert [problem for words in commands(page) if (problem := problem_with(root, words))] == []


def problem_with(command: object, words: list[str]) -> str | None:
    """What of a command line does not exist."""
    rest = list(words)
    while rest and hasattr(command, "commands"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"penstock {' '.join(words)}: no command {name}"
        command = command.commands[name]
    known = {option for parameter in getattr(command, "params", []) for option in parameter.opts} | {"--help"}
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0].strip("]") not in known]
    return f"penstock {' '.join(words)}: no {unknown}" if unknown else None


@page
def test_settings_exist(page: Path) -> None:
    """Those of the worker are fields; the others are read by name somewhere."""
    sources = "".join(path.read_text() for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))
    known = {f"PENSTOCK_{name.upper()}" for name in Settings.model_fields}
    known |= set(re.findall(r"""["']?(PENSTOCK_[A-Z_]+)["']?""", sources))
    assert set(re.findall(r"\bPENSTOCK_[A-Z_]*[A-Z]\b", page.read_text())) - known == set()


@page
def test_words_of_producer_exist(page: Path) -> None:
    """Written as `durability="journal"`."""
    named = set(re.findall(r"`([a-z_]+)=[^`\n]*`", page.read_text()))
    assert named - set(inspect.signature(Producer).parameters) == set()


@page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {match[1] for line in words_of_code(page) if (match := re.match(r"(?:[A-Z_]+=\S+ )*make ([a-z]+)", line))}
    assert named - targets == set()


def test_the_checks_can_fail(tmp_path: Path) -> None:
    wrong = tmp_path / "page.md"
    wrong.write_text(
        "[test_no](page.md) `penstock dead-letters lisst` `penstock status --jsno` `make no`\n```sh\npenstock up # x\n```\n"
    )
    with pytest.raises(AssertionError, match="test_no"):
        test_tests_exist(wrong)
    with pytest.raises(AssertionError, match="no command lisst"):
        test_commands_exist(wrong)
    with pytest.raises(AssertionError, match="no"):
        test_make_targets_exist(wrong)
    assert list(commands(wrong)) == [["up"], ["dead-letters", "lisst"], ["status", "--jsno"]]
    assert problem_with(typer.main.get_command(app), ["status", "--jsno"]) == "penstock status --jsno: no ['--jsno']"
