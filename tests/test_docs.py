"""What the documentation shows is true: settings, commands and plans are read, links lead on."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from vdag.cli import app
from vdag.cli.node import app as node_app
from vdag.config import load_config
from vdag.control.policies import load
from vdag.plan import Plan

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TOKEN = "correct-horse-battery"
#: Commands stand in blocks, alone or after a prompt; a line that ends in a backslash goes on.
_BLOCK = re.compile(r"^    (?:(?:[\w-]*\$) +)?(vdag(?:-node)? .*)$", re.MULTILINE)
_CODE = re.compile(r"`(vdag(?:-node)? [^`]*)`")
_LINK = re.compile(r"\]\((?!http)([^)#]+)\)")


def blocks(language: str) -> list[Any]:
    """The fenced blocks of a language, each under the name of its page and its number."""
    params = []
    for page in PAGES:
        found = re.findall(
            rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        )
        for number, text in enumerate(found, 1):
            params.append(pytest.param(text, id=f"{page.name} {number}"))
    return params


def commands() -> list[Any]:
    """The commands of ours that stand in blocks or in the text."""
    params = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for command in (*_BLOCK.findall(text), *_CODE.findall(text)):
            words = shlex.split(command, comments=True)
            if len(words) > 1:
                name = f"{page.name} {' '.join(words)}"[:100]
                params.append(pytest.param(words, id=name))
    return params


@pytest.mark.parametrize("text", blocks("toml"))
def test_settings_are_read(text: str, tmp_path: Path):
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    path = tmp_path / "node.toml"
    path.write_text(text.replace("/etc/vdag/token", str(token)))
    config = load_config(path)
    for section in ("cloud", "edge", "service"):
        if "token_file" in text.partition(f"[{section}]")[2].partition("\n[")[0]:
            assert getattr(config, section).token == TOKEN


@pytest.mark.parametrize("words", commands())
def test_commands_have_these_options(words: list[str]):
    name, *arguments = words
    command = typer.main.get_command(node_app if name == "vdag-node" else app)
    while isinstance(command, click.Group):
        assert arguments[0] in command.commands, words
        name, command = arguments[0], command.commands[arguments[0]]
        arguments = arguments[1:]
    # In the text, the names of commands stand without what they need.
    is_whole = any(not argument.startswith("-") for argument in arguments)
    if is_whole or not arguments:
        command.make_context(name, arguments, resilient_parsing=not is_whole)
    else:
        known = {option for parameter in command.params for option in parameter.opts}
        assert {argument for argument in arguments if argument.startswith("-")} <= known


@pytest.mark.parametrize("text", blocks("json"))
def test_plans_are_read(text: str):
    documents = json.loads(text)
    plan = Plan.from_documents(documents["flow_mapping"], **documents, number=1)
    assert plan.to_documents()["flow_mapping"] == documents["flow_mapping"]


def test_policies_have_the_signatures_shown(tmp_path: Path):
    (text,) = (each.values[0] for each in blocks("python") if "resource_info" in each.values[0])
    (tmp_path / "policy.py").write_text(text)
    older, newer = (load(f"{tmp_path / 'policy.py'}:{name}") for name in ("older", "newer"))
    assert (older.is_older, newer.is_older) == (True, False)
    assert len(older.parameters) == len(newer.parameters) == 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in _LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target
