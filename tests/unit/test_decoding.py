"""Types are learnt by one thread at a time. What msgspec does otherwise is a segmentation fault: the stress has its own process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fleet.core import decoding

ROOT = Path(__file__).parents[2]
RAW = re.compile(r"msgspec\.(convert\(|json\.Decoder\([^)]|json\.decode\([^\n]*\btype=)")

STRESS = """
import sys, threading, types
sys.setswitchinterval(1e-6)
from fleet.core import decoding
import msgspec
source = "from __future__ import annotations\\nimport msgspec\\n"
source += "".join(f"class B{j}(msgspec.Struct):\\n    x: int\\n" for j in range(10))
source += "class A(msgspec.Struct):\\n" + "".join(f"    f{j}: B{j}\\n" for j in range(10))
data = msgspec.json.encode({f"f{j}": {"x": j} for j in range(10)})
seen = []
for n in range(300):
    module = sys.modules[f"m{n}"] = types.ModuleType(f"m{n}")
    exec(source, module.__dict__)
    barrier = threading.Barrier(4)
    def meet():
        barrier.wait()
        seen.append(%s.f9.x)
    threads = [threading.Thread(target=meet) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
assert seen == [9] * 1200, len(seen)
"""


def stressed(expression: str) -> int:
    return subprocess.run([sys.executable, "-c", STRESS % expression], cwd=ROOT, timeout=120).returncode


@pytest.mark.parametrize(
    "expression", ["decoding.decode(data, module.A)", "decoding.convert(msgspec.json.decode(data), module.A)"]
)
def test_a_type_that_many_threads_meet_at_once_crashes_nobody(expression: str) -> None:
    assert stressed(expression) == 0


def test_nobody_else_teaches_msgspec_a_type() -> None:
    sources = [p for top in ("fleet", "workers", "coordinator") for p in (ROOT / top).rglob("*.py")]
    assert len(sources) > 200
    raw = [str(p.relative_to(ROOT)) for p in sources if RAW.search(p.read_text())]
    assert raw == ["fleet/core/decoding.py"]


def test_what_does_not_fit_is_refused() -> None:
    assert decoding.decode(b"[1]", list[int]) == decoding.convert([1], list[int]) == [1]
    assert decoding.decoder(list[int]) is decoding.decoder(list[int])
    with pytest.raises(msgspec.ValidationError):
        decoding.decode(b'["a"]', list[int])
    with pytest.raises(msgspec.ValidationError):
        decoding.convert(["a"], list[int])
