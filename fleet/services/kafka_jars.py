"""Apache Kafka's jars, resolved by Maven coordinates into the user's cache, once for all processes and checkouts.

Comes in: Java and Maven of this machine, the network the first time. Goes out: `$XDG_CACHE_HOME/streamfleet/kafka-4.x.y/jars`.
Two processes that download at once wait for each other (file lock); a directory appears complete or not at all (rename).
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fleet.services.daemon import Daemon, ServiceMissing

KAFKA_VERSION = "4.1.2"
OLDEST_JAVA = 17
POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamfleet</groupId><artifactId>kafka-server</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
  <build><plugins><plugin>
    <groupId>org.apache.maven.plugins</groupId><artifactId>maven-dependency-plugin</artifactId><version>3.8.1</version>
  </plugin></plugins></build>
</project>
"""


class Distribution:
    """The jars in the cache, and a formatted log directory made from them."""

    def __init__(self, cache: Path | None = None) -> None:
        self.cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamfleet"
        self.home = self.cache / f"kafka-{KAFKA_VERSION}"
        self.jars = self.home / "jars"
        self.formatted = self.home / "formatted"

    def check(self) -> None:
        """Raises ServiceMissing if the jars are neither there nor to be had."""
        if not self.home.exists() and shutil.which("mvn") is None:
            raise ServiceMissing(
                "Apache Kafka: Maven is not installed; apt-get install maven (needed once, to download)"
            )

    def ensure(self, daemon: Daemon) -> None:
        """Download unless it is there; tells `daemon.progress`. Raises ServiceMissing."""
        if self.home.exists():
            return
        self.cache.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.home.exists():
                return  # another process was faster
            with tempfile.TemporaryDirectory(prefix=".kafka-", dir=self.cache) as scratch:
                self._download(daemon, Path(scratch))
                (Path(scratch) / "home").rename(self.home)

    def keep_formatted(self, directory: Path) -> None:
        """Keep a copy of this fresh log directory for the next start."""
        with self._locked(), tempfile.TemporaryDirectory(prefix=".format-", dir=self.cache) as scratch:
            if not self.formatted.exists():
                shutil.copytree(directory, Path(scratch) / "formatted").rename(self.formatted)

    def _download(self, daemon: Daemon, scratch: Path) -> None:
        mvn = shutil.which("mvn")
        if mvn is None:
            raise ServiceMissing(
                "Apache Kafka: Maven is not installed; apt-get install maven (needed once, to download)"
            )
        pom, log, seen = scratch / "pom.xml", scratch / "mvn.log", 0
        pom.write_text(POM)
        log.touch()

        def report() -> None:
            nonlocal seen
            files = len(re.findall(r"Downloaded from \S+: \S+\.jar ", log.read_text(errors="replace")))
            if files > seen:
                seen = files
                daemon.progress(f"downloading Apache Kafka {KAFKA_VERSION}: {files} files")

        daemon.progress(f"downloading Apache Kafka {KAFKA_VERSION} (43 MB, once)")
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={scratch}/home/jars"]
        code = daemon.run([mvn, "-B", "-f", str(pom), *goal], log, report)
        if code != 0:
            raise ServiceMissing(f"Apache Kafka: Maven could not download it: {_maven_error(log.read_text())}")
        daemon.progress(f"downloaded Apache Kafka {KAFKA_VERSION}")

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.cache / "kafka.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _maven_error(log: str) -> str:
    errors = [line.removeprefix("[ERROR] ").strip() for line in log.splitlines() if line.startswith("[ERROR]")]
    return (errors[0] if errors else "no reason given")[:300]


def find_java() -> str:
    """The `java` to run Kafka with: JAVA_HOME's, else the PATH's. Raises ServiceMissing if it is not 17 or newer."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else None
    java = java or shutil.which("java")
    version = java_major(java) if java else 0
    if java is None or version < OLDEST_JAVA:
        found = f"Java {version} is too old" if version else "Java is not installed"
        raise ServiceMissing(f"Apache Kafka: {found}; apt-get install openjdk-17-jre-headless")
    return java


def java_major(java: str) -> int:
    """Major version, from the `release` file beside the program (no JVM start), else by asking it. 0: unknown."""
    release = Path(java).resolve().parent.parent / "release"
    try:
        text = release.read_text()
    except OSError:
        try:
            text = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=True).stderr
        except (OSError, subprocess.SubprocessError):
            return 0
    match = re.search(r'(?:JAVA_VERSION=|version )"(?:1\.)?(\d+)', text)
    return int(match.group(1)) if match else 0
