"""`python -m tests.conformance [--quick] [connection|simulator]`: exit 0 when every case passed, 1 with the list of those
that did not; one line and exit 0 where there is no Python 2.7 to run the suite with (exit 1 when CI=true)."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

from tests.conformance import autobahn, runs

RUNS = {"connection": runs.against_connection, "simulator": runs.against_simulator}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(RUNS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="only autobahn.QUICK_CASES")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(RUNS):
        parser.error(f"no such run: {', '.join(sorted(unknown))}; there are: {', '.join(RUNS)}")
    cases = autobahn.QUICK_CASES if given.quick else autobahn.CASES
    chosen = given.names or list(RUNS)
    try:
        wstest = autobahn.install()
    except autobahn.Python2Missing as error:
        print(f"conformance skipped: {error}; the Autobahn test suite needs Python 2.7")
        return 1 if os.environ.get("CI") == "true" else 0
    except subprocess.CalledProcessError as error:
        print(f"conformance: installing the Autobahn test suite failed: {error.stderr.decode(errors='replace')[-400:]}")
        return 1
    status = 0
    for name in chosen:
        started = time.monotonic()
        total, failed, counts = RUNS[name](wstest, cases)
        print(f"{name}: {total} cases in {time.monotonic() - started:.0f} s: {counts}")
        for line in failed:
            print(f"  FAILED {line}")
        if failed or not total:
            status = 1
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
