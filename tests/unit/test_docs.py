"""The pages say what the code does: settings, commands, topics, metrics."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from fleet.cli import main
from fleet.commands.settings_page import page
from fleet.core import names

ROOT = Path(__file__).resolve().parents[2]


def test_the_settings_page_is_up_to_date() -> None:
    assert (ROOT / "docs/settings.md").read_text() == page(), (
        "python -m fleet.commands.settings_page > docs/settings.md"
    )


def test_the_contracts_name_every_topic_and_message() -> None:
    text = (ROOT / "docs/contracts.md").read_text()
    for topic in (*names.USER_TOPICS, *names.MARKET_TOPICS, names.TOPIC_STREAMS):
        assert f"`{topic}`" in text
    for name in ("MARKET_STARTED", "MARKET_DISCONNECTED", "HOT_RELOAD_NEW", "USER_CONNECTED", "CREDENTIALS_ERROR"):
        assert getattr(names, name) in text


def commands(group: click.Group, prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, command in group.commands.items():
        found += commands(command, f"{prefix}{name} ") if isinstance(command, click.Group) else [f"{prefix}{name}"]
    return found


def test_the_contracts_name_every_command() -> None:
    text = (ROOT / "docs/contracts.md").read_text()
    for command in commands(main):
        assert f"fleet {command}" in text, command


@pytest.mark.parametrize(
    "name", ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "docs/contracts.md", "docs/glossary.md"]
)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    page_path = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page_path.read_text()):
        if "://" not in target:
            assert (page_path.parent / target).exists(), f"{name} links to {target}"
