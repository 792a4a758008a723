"""Coverage of the pure part from its own tests: `make coverage`. In: tests/unit and tests/contract. Out: a table of what misses,
exit code 1 below 100 % of lines or 95 % of branches. What may stay uncovered is in setup.cfg, with its reason.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = ("fleet/core", "fleet/exchanges")
BRANCHES_PERCENT = 95.0


def main() -> int:
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "coverage.json"
        command = [
            sys.executable, "-m", "pytest", "tests/unit", "tests/contract", "-n", "2", "--cov-branch",
            *(f"--cov={source}" for source in SOURCES), "--cov-report=term-missing:skip-covered", f"--cov-report=json:{report}",
            *sys.argv[1:],
        ]  # fmt: skip
        env = os.environ | {"COVERAGE_FILE": str(Path(place) / "data")}
        failed = subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
        files = json.loads(report.read_text())["files"]
    chosen = [file["summary"] for name, file in files.items() if name.startswith(SOURCES)]
    lines = sum(s["missing_lines"] for s in chosen)
    branches, covered = sum(s["num_branches"] for s in chosen), sum(s["covered_branches"] for s in chosen)
    percent = 100.0 * covered / branches
    statements = sum(s["num_statements"] for s in chosen)
    print(f"{statements} statements, {lines} missing; {covered} of {branches} branches = {percent:.1f} %")
    return 1 if failed or lines or percent < BRANCHES_PERCENT else 0


if __name__ == "__main__":
    sys.exit(main())
