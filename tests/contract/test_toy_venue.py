"""A fifth venue costs one folder and its samples: the contract suite takes it as it is, and no other file changes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests" / "contract" / "toy"
COPIED = ("fleet", "tests/contract", "tests/__init__.py", "setup.cfg", "docs/schema.json")
ADDED = {"fleet/exchanges/toy": TOY / "exchange", "tests/contract/samples/toy.py": TOY / "samples.py"}


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "toy"))
    else:
        shutil.copy(source, target)


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file() and ".hypothesis" not in path.parts
    }


def test_a_venue_is_added_by_new_files_alone(tmp_path: Path) -> None:
    for name in COPIED:
        copy(ROOT / name, tmp_path / name)
    before = contents(tmp_path)
    for name, source in ADDED.items():
        assert not (tmp_path / name).exists()
        copy(source, tmp_path / name)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-k",
        "toy",
        "tests/contract/test_exchanges.py",
    ]
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=150, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed and int(passed[1]) > 60 and "skipped" not in ran.stdout, ran.stdout[-500:]
    after = contents(tmp_path)
    assert before.items() <= after.items()
    new = after.keys() - before.keys()
    assert new == {"fleet/exchanges/toy/__init__.py", "tests/contract/samples/toy.py"}
