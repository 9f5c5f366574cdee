"""The programs beside the verbs, which the help lists: by name, with what each says of itself first."""

import ast
import re
from pathlib import Path


def programs(folder: Path) -> dict[str, str]:
    """The first phrase of each program's docstring, by the name of its file or folder; none is imported.

    A file without a function `main` is no program.

    Args:
        folder: Where they lie.
    """
    files = {file.stem: file for file in folder.glob("[a-z]*.py")}
    files |= {file.parent.name: file for file in folder.glob("[a-z]*/__init__.py")}
    parsed = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in sorted(files.items())}
    starts = {
        name: code for name, code in parsed.items() if "main" in {getattr(each, "name", "") for each in code.body}
    }
    return {name: re.split(r"[:.](?=\s|$)|\n", ast.get_docstring(code) or "")[0] for name, code in starts.items()}
