"""Log lines: readable by grep, never blocking, never leaking."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.core import names
from fleet.core.errors import SettingsError
from fleet.core.model import Credentials
from fleet.runtime import logs
from fleet.runtime.log_writer import LineFile, StreamOut, Writer
from fleet.runtime.settings import Settings

LISTEN_KEY = "pqia91ma19a5s61cv6a81va65sdf19v8a65a1a5s61cv6a81va65sdf19v8a65A1"
BOT_TOKEN = "123456789:AAF-canary_canary_canary_canary_canary"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = (threading.excepthook,)
    yield
    logs.close()
    root.handlers[:], threading.excepthook = handlers, hooks[0]
    root.setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    logs.close()
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def configured(directory: Path, program: str = "worker_00", **settings: Any) -> Path:
    logs.configure(Settings(log_dir=str(directory), **settings), program)
    return directory / f"{program}.log"


def test_a_line_has_time_level_program_event_and_fields(tmp_path: Path) -> None:
    path = configured(tmp_path)
    logs.get("workers.stream").info("connected", action="connect", stream="a-1", shard="h:0", attempt=3)
    (line,) = lines(path)
    assert list(line)[:4] == ["time", "level", "program", "event"]
    assert line["time"].endswith("Z") and len(line["time"]) == len("2026-01-01T00:00:00.000Z")
    assert (line["level"], line["program"], line["event"]) == ("info", "worker_00", "connected")
    assert (line["action"], line["stream"], line["shard"], line["attempt"]) == ("connect", "a-1", "h:0", 3)


def test_the_original_messages_can_be_grepped_word_for_word(tmp_path: Path) -> None:
    path = configured(tmp_path)
    messages = [
        names.MARKET_STARTED, names.MARKET_DISCONNECTED, names.MARKET_RECONNECTED, names.USER_STARTED, names.HOT_RELOAD_NEW,
        names.USER_CONNECTING, names.USER_CONNECTED, names.CREDENTIALS_ERROR, names.USER_RECONNECTED,
    ]  # fmt: skip
    for message in messages:
        logs.get("m").info(message)
    logs.close()
    text = path.read_text(encoding="utf-8")
    assert all(message in text for message in messages)
    assert text.lower().count("market data") == 3 and text.lower().count("hot reload") == 1


def test_level_is_a_threshold_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    path = configured(tmp_path, log_level="warning")
    logs.get("m").info("quiet")
    logs.get("m").warning("loud")
    assert [line["event"] for line in lines(path)] == ["loud"]
    with pytest.raises(SettingsError, match="FLEET_LOG_LEVEL='chatty'"):
        configured(tmp_path, log_level="chatty")


def test_an_unwritable_directory_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="FLEET_LOG_DIR="):
        configured(tmp_path / "file")


def test_secrets_are_dropped_or_masked(tmp_path: Path) -> None:
    path = configured(tmp_path)
    canary = "canary-canary"
    log = logs.get("m")
    log.info(
        "fields", secret=canary, api_key=canary, listen_key=canary, signature=canary, passphrase=canary, kept="kept"
    )
    log.info("nested", call={"params": [("a", "1")], "signature": canary, "more": [{"passphrase": canary}]})
    log.info(f"GET https://fapi/fapi/v1/order?symbol=X&signature={canary}&listenKey={canary}")
    log.info("headers", sent=f"{{'X-MBX-APIKEY': '{canary}'}}", dsn=f"postgresql://user:{canary}@db/fleet")
    log.info("socket", url=f"wss://host/ws/{LISTEN_KEY}", bot=f"https://api.telegram.org/bot{BOT_TOKEN}/sendMessage")
    log.info("object", value=Credentials(canary, canary))
    try:
        raise ValueError(f"signature={canary}")
    except ValueError:
        log.exception("failed")
    text = path.read_text(encoding="utf-8") if lines(path) else ""
    assert canary not in text and LISTEN_KEY not in text and BOT_TOKEN not in text
    assert "ValueError" in text and '"kept":"kept"' in text and "symbol=X" in text


def test_fencing_tokens_and_ids_survive_redaction(tmp_path: Path) -> None:
    path = configured(tmp_path)
    digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    logs.get("m").info("moved", token="00000000004294967301", id=digest, stream="6f7a3c1e-8f7f-4a0c-9d59-1c7d1f5c2d11")
    (line,) = lines(path)
    assert line["token"] == "00000000004294967301" and line["id"] == digest and line["stream"].startswith("6f7a3c1e")


def report(count: int) -> str:
    return json.dumps({"event": "log lines dropped", "dropped": count})


class Stuck(StreamOut):
    """An output that takes nothing until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.taken: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.go.wait(10)
        self.taken.append(data)


def test_a_stuck_output_blocks_nobody_and_drops_are_counted_and_reported() -> None:
    out = Stuck()
    writer = Writer(out, report, max_lines=100)
    started = time.monotonic()
    for n in range(5_000):
        writer.put(f'{{"n":{n}}}')
    assert time.monotonic() - started < 1
    assert 3_000 < writer.dropped < 5_000
    dropped = writer.dropped
    out.go.set()
    writer.close(5)
    text = b"".join(out.taken).decode()
    reported = [json.loads(line) for line in text.splitlines() if "log lines dropped" in line]
    assert sum(line["dropped"] for line in reported) == dropped


def test_a_full_disk_is_counted_and_reported_when_it_heals() -> None:
    out = Stuck()
    failing = [OSError(28, "No space left on device")]

    def write(data: bytes) -> None:
        if failing:
            raise failing.pop()
        out.taken.append(data)

    out.write = write  # type: ignore[method-assign]
    writer = Writer(out, report)
    writer.put("lost")
    deadline = time.monotonic() + 5
    while not writer.dropped and time.monotonic() < deadline:
        time.sleep(0.005)
    writer.put("kept")
    writer.close(5)
    text = b"".join(out.taken).decode()
    assert "kept" in text and "lost" not in text and '"dropped": 1' in text


def test_files_rotate_by_size_and_keep_whole_lines(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "p.log", max_bytes=100)
    for n in range(50):
        file.write(f"line {n:04d}\n".encode())
    file.close()
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["p.log", "p.log.1", "p.log.2", "p.log.3"]
    assert all(path.read_text().endswith("\n") and path.stat().st_size <= 100 for path in tmp_path.iterdir())
    assert "line 0049" in (tmp_path / "p.log").read_text()


def test_a_renamed_file_is_opened_anew(tmp_path: Path) -> None:
    file = LineFile(tmp_path / "p.log")
    file.write(b"one\n")
    (tmp_path / "p.log").rename(tmp_path / "p.log.old")
    file.write(b"two\n")
    file.close()
    assert (tmp_path / "p.log").read_text() == "two\n"


def test_libraries_log_warnings_without_payload_or_query(tmp_path: Path) -> None:
    path = configured(tmp_path)
    logging.getLogger("redis.conn").info("payload")
    logging.getLogger("redis.conn").warning("%s records", "many")
    logging.getLogger("urllib3").warning("retrying %s", "/fapi/v1/order?signature=canary " + "x" * 1000)
    try:
        raise RuntimeError("canary")
    except RuntimeError:
        logging.getLogger("websocket").exception("lost")
    found = lines(path)
    assert [line["module"] for line in found] == ["redis.conn", "urllib3", "websocket"]
    assert "canary" not in json.dumps(found) and len(found[1]["event"]) <= logs.LIBRARY_TEXT
    assert found[2]["error"] == "RuntimeError"


def test_an_exception_that_ends_a_thread_is_logged(tmp_path: Path) -> None:
    path = configured(tmp_path)

    def fail() -> None:
        raise KeyError("gone")

    thread = threading.Thread(target=fail, name="reader-1")
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    (line,) = lines(path)
    assert (line["level"], line["thread"], line["error"]) == ("critical", "reader-1", "KeyError")
