"""What bash completes after `python -m src`."""

import shutil
import subprocess

import pytest

from src.tools.completion import script


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Ask a real bash what it makes of a line at its end."""
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    file = tmp_path_factory.mktemp("shell") / "completion"
    file.write_text(script())

    def run(line: str) -> list[str]:
        words = " ".join(f"'{word}'" for word in line.split(" "))
        number = len(line.split(" ")) - 1
        ask = f"source {file}; COMP_WORDS=({words}); COMP_CWORD={number}; _src; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return run


def test_verbs_come_first(complete):
    assert complete("python -m src ") == ["fit", "validate", "test", "predict"]
    assert complete("python -m src pre") == ["predict"]


def test_options_follow_by_their_beginning(complete):
    assert complete("python -m src fit --trainer.max_ep") == ["--trainer.max_epochs"]
    assert complete("python -m src test --config a.yaml --ckpt") == ["--ckpt_path"]
    assert complete("python -m src fit --model.schedu") == [
        "--model.scheduler",
        "--model.scheduler.help",
        "--model.scheduler_interval",
    ]


def test_an_option_of_one_verb_is_not_offered_to_another(complete):
    assert complete("python -m src predict --return") == ["--return_predictions"]
    assert complete("python -m src fit --return") == []
    assert complete("python -m src fit --logdir") == []


def test_other_modules_are_left_alone(complete):
    assert complete("python -m pytest --trainer.max_ep") == []
