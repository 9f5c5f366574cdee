"""The help lists the programs beside the verbs by what they say first."""

import pytest

from src.engine.config.programs import programs


@pytest.mark.parametrize(
    ("docstring", "phrase"),
    [
        ("Draws it. And more.", "Draws it"),
        ("Draws it: `draw --to x.png`", "Draws it"),
        ("Reads `src ...` and x.yaml on TAB: as bash\ndoes.", "Reads `src ...` and x.yaml on TAB"),
        ("Draws it\nat once", "Draws it"),
        ("", ""),
    ],
)
def test_a_program_is_told_by_its_first_phrase_and_not_imported(docstring, phrase, tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file.py", tmp_path / "folder/__init__.py"):
        path.write_text(f'"""{docstring}"""\nraise SystemExit\ndef main(): ...\n')
    (tmp_path / "shared.py").write_text(f'"""{docstring}"""\n')
    (tmp_path / "_private.py").write_text("")
    (tmp_path / "folder/part.py").write_text("")
    assert programs(tmp_path) == {"file": phrase, "folder": phrase}
