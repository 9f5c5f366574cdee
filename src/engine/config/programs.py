"""The programs beside the verbs, which the help lists: by name, with what each says of itself first."""

import ast
import re
from pathlib import Path


def programs(folder: Path) -> dict[str, str]:
    """The first phrase of each program's docstring, by the name of its file or folder; none is imported.

    Args:
        folder: Where they lie.
    """
    files = {file.stem: file for file in folder.glob("[a-z]*.py")}
    files |= {file.parent.name: file for file in folder.glob("[a-z]*/__init__.py")}
    says = {name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) for name, file in files.items()}
    return {name: re.split(r"[:.](?=\s|$)|\n", text or "")[0] for name, text in sorted(says.items())}
