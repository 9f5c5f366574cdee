"""One run in full: all that its files say of it."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from src.tools.common import lines_of
from src.tools.runs import columns
from src.tools.runs.compare import options_of
from src.tools.runs.find import find_one
from src.tools.runs.options import as_text, load_yaml
from src.tools.runs.read import read_run, why


def main(args: list[str]) -> None:
    """Print it."""
    parser = argparse.ArgumentParser("python -m src runs show", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="xor/version_3, a path, or xor for its latest run")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the folder of all runs; default: runs")
    given = parser.parse_args(args)
    name, folder = find_one(given.root, given.run)
    row = read_run(name, folder)
    sizes = [[path.relative_to(folder).as_posix(), f"{size:,} bytes"] for path, size in files_in(folder)]
    facts = [[key, columns.cell(key, row.get(key), row)] for key in columns.names_of([row]) if row.get(key) is not None]
    print("\n".join(lines_of(facts)))
    print("\n".join(["", "files", *(f"  {line}" for line in lines_of(sizes, {1}))]))
    if row["state"] == "broken":
        sys.exit(1)
    options = options_of(name, folder, row)
    try:
        entries = load_yaml(folder / "record.yaml") if (folder / "record.yaml").exists() else []
        commands = [[columns.cell("started", str(entry["time"]), row), str(entry["command"])] for entry in entries]
    except Exception as error:  # whatever stands there
        commands = [[f"record.yaml is broken: {why(error)}"]]
    print("\n".join(["", "commands", *(f"  {line}" for line in lines_of(commands))]))
    said = [[key, as_text(value)] for key, value in options.items() if value is not None]
    print("\n".join(["", "options that are not null", *(f"  {line}" for line in lines_of(said))]))


def files_in(folder: Path) -> Iterator[tuple[Path, int]]:
    """Each file below a folder and its size in bytes, as far as it is still there."""
    for path in sorted(folder.rglob("*")):
        with suppress(OSError):
            if path.is_file():
                yield path, path.stat().st_size
