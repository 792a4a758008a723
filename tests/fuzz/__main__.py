"""Coverage-guided fuzzing of every exchange folder's `parse` (atheris): `make fuzz`, or `python -m tests.fuzz --inputs N`.

In: the samples of tests/contract and the recorded captures as seeds. Out: one line a parser, exit code 1 if a promise of
tests/fuzz/target.py was broken; the input that broke it is kept in the directory named.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from fleet.exchanges import exchanges
from tests.contract.samples import samples_of
from tests.support import captures

PARSERS = ("user", "market")
CAPTURED = {"binance_usdm": "binance_usdm.ws.gz", "okx": "okx.ws.gz"}
CAPTURED_MOST = 200  # frames of a capture that become seeds, spread over it


def seeds(venue: str, parser: str) -> Iterator[bytes]:
    samples = samples_of(venue)
    yield from (sample.frame for sample in (samples.user if parser == "user" else samples.market))
    if parser == "market" and venue in CAPTURED and (captures.DIRECTORY / CAPTURED[venue]).is_file():
        frames = [frame for _, frame in captures.received(CAPTURED[venue])]
        yield from frames[:: max(1, len(frames) // CAPTURED_MOST)]


def fuzz(
    venue: str, parser: str, inputs: int, seed: int, keep: Path, timeout_s: float | None = None
) -> tuple[int, str]:
    """(inputs tried, what broke or ""). Raises TimeoutExpired."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
        for frame in seeds(venue, parser):
            (Path(corpus) / sha256(frame).hexdigest()[:16]).write_bytes(frame)
        command = [
            sys.executable, "-m", "tests.fuzz.target", venue, parser, corpus, f"-runs={inputs}", f"-seed={seed}",
            "-max_len=8192", "-timeout=20", "-rss_limit_mb=1024", f"-artifact_prefix={keep}/{venue}-{parser}-",
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, check=False, timeout=timeout_s)
    told = ran.stderr.decode("utf-8", "replace")
    done = re.findall(r"Done (\d+) runs|^#(\d+)\s", told, re.M)
    tried = max((int(a or b) for a, b in done), default=0)
    if ran.returncode:
        return tried, (ran.stdout.decode("utf-8", "replace") + told)[:1500]
    return tried, ""


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--inputs", type=int, default=1_000_000, help="in all, shared out among the parsers")
    options.add_argument("--venues", nargs="*", default=[], help="default: every exchange folder")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "streamfleet-fuzz")
    chosen = options.parse_args()
    venues = chosen.venues or list(exchanges())
    chosen.keep.mkdir(parents=True, exist_ok=True)
    each, total, broken, began_s = -(-chosen.inputs // (len(venues) * len(PARSERS))), 0, 0, time.monotonic()
    for venue in venues:
        for parser in PARSERS:
            at_s = time.monotonic()
            tried, why = fuzz(venue, parser, each, chosen.seed, chosen.keep)
            total += tried
            print(
                f"{venue:14} {parser:7} {tried:>9} inputs {time.monotonic() - at_s:6.1f} s",
                "BROKEN" if why else "",
                flush=True,
            )
            if why:
                broken += 1
                print(f"{why}\nthe input is in {chosen.keep}", flush=True)
    print(f"{total} inputs, {broken} broken, {time.monotonic() - began_s:.0f} s; seed {chosen.seed}")
    return 1 if broken or total < chosen.inputs else 0


if __name__ == "__main__":
    sys.exit(main())
