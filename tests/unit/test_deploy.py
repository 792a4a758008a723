"""What deploy/ refers to exists: metrics in alerts and panels, headings of the runbook, programs in the configurations."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fleet.runtime.metrics import OFFSETS, Metrics

ROOT = Path(__file__).resolve().parents[2]
RULES = (ROOT / "deploy" / "prometheus-rules.yml").read_text()
BOARD = json.loads((ROOT / "deploy" / "grafana-board.json").read_text())


def known() -> set[str]:
    names = re.findall(r"^# TYPE (\S+) (\w+)$", Metrics().render().decode(), re.MULTILINE)
    buckets = {f"{name}_bucket" for name, kind in names if kind == "histogram"}
    return {name for name, _ in names} | buckets | {"fleet_scrape_up"}


def mentioned(text: str) -> set[str]:
    return set(re.findall(r"\b(?:fleet|prometheus|process)_[a-z_]+\b(?!\.)", text))


def test_alerts_use_metrics_that_exist() -> None:
    expressions = re.sub(r"#.*", "", "\n".join(re.findall(r"expr:((?:.|\n)*?)\n\s+(?:for|labels):", RULES)))
    assert len(mentioned(expressions)) > 12
    assert mentioned(expressions) <= known()


def test_panels_use_metrics_that_exist() -> None:
    expressions = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 25
    assert mentioned("\n".join(expressions)) <= known()
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_every_original_metric_is_on_the_board() -> None:
    originals = {name for name in known() if name.startswith("prometheus_")}
    assert len(originals) == 6 and originals <= mentioned(json.dumps(BOARD))


def test_runbook_headings_of_the_alerts_exist() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    headings = {
        re.sub(r"[^a-z -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    targets = set(re.findall(r"runbook: docs/operations\.md#(\S+)", RULES))
    assert targets and targets <= headings
    assert RULES.count("- alert:") == RULES.count("runbook:")


@pytest.mark.parametrize("conf", ["supervisord.conf", "deploy/supervisord-workers.conf"])
def test_programs_restart_for_ever_and_keep_their_deadlines(conf: str) -> None:
    import configparser

    parser = configparser.RawConfigParser(inline_comment_prefixes=(" ;",))
    parser.read(ROOT / conf)
    programs = {
        name.removeprefix("program:"): parser[name] for name in parser.sections() if name.startswith("program:")
    }
    restarter = programs.pop("restarter")
    assert restarter["autorestart"] == "unexpected", "it ends well where the kernel cannot help it"
    assert set(programs) <= {*OFFSETS, "worker"}
    for section in programs.values():
        assert section["autorestart"] == "true" and int(section["startretries"]) > 10**5
    assert int(programs["worker"]["stopwaitsecs"]) == 30 and "inet_http_server" not in parser
    if conf == "supervisord.conf":
        assert set(programs) == {*OFFSETS, "worker"} and int(programs["marketdata"]["stopwaitsecs"]) == 10
        by_stop = sorted(programs, key=lambda name: -int(programs[name]["priority"]))
        assert by_stop[:3] == ["marketdata", "coordinator", "worker"] and by_stop[-1] == "console"


def test_setup_leaves_an_environment_alone_that_is_only_linked_to(tmp_path: Path) -> None:
    """`make check` in a clone with a link cleared the environment of everybody who used it."""
    clone, shared = tmp_path / "clone", tmp_path / "shared"
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    for name in ("setup.cfg", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, clone)
    shared.mkdir()
    (shared / "theirs").touch()
    (clone / ".venv").symlink_to(shared)
    subprocess.run(["bash", ".ci/setup"], cwd=clone, check=True, timeout=60, env={"PATH": "/nowhere:/usr/bin:/bin"})
    assert [path.name for path in shared.iterdir()] == ["theirs"]
