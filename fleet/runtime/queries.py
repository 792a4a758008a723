"""Named SQL statements, kept in files beside the code that runs them. Used by every process.

In: `<resource>.sql` in a package's folder, blocks of `-- name: its_name`, a comment line that says what it is for, SQL.
Out: {name: statement}.
"""

from __future__ import annotations

from importlib import resources


def queries(resource: str, package: str = "fleet.runtime.sql") -> dict[str, str]:
    """Statements of `<resource>.sql` inside `package` (the coordinator's own are in "coordinator.sql").

    Raises ValueError for a name used twice or a statement without its description line.
    """
    folder, _, inner = package.rpartition(".")
    text = (resources.files(folder) / inner / f"{resource}.sql").read_text(encoding="utf-8")
    statements: dict[str, str] = {}
    for block in text.split("-- name:")[1:]:
        name, _, sql = block.partition("\n")
        name = name.strip()
        if name in statements or not sql.lstrip().startswith("--"):
            raise ValueError(f"{resource}.sql: statement {name!r} is named twice or has no description line")
        statements[name] = sql.strip().rstrip(";")
    return statements
