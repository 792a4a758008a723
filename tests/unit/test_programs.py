"""Programs of ours that take a while: `--help` explains and ends, a wrong name is wrong use; neither starts a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks import __main__ as benchmarks
from tests.conformance import __main__ as conformance


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["no-such"], 2), (["--no-such"], 2)])
@pytest.mark.parametrize("main", [benchmarks.main, conformance.main], ids=["benchmarks", "conformance"])
def test_only_what_was_asked_for_is_run(
    main: Callable[[list[str]], int], arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.services.Services.start", lambda *_, **__: pytest.fail("services were started"))
    monkeypatch.setattr("benchmarks.idle_account.measure", lambda: pytest.fail("a benchmark was started"))
    monkeypatch.setattr("tests.conformance.autobahn.install", lambda: pytest.fail("the suite was started"))
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
