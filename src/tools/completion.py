"""Completes `python -m src ...` on TAB: `python -m src completion > .completion`, then `source .completion` in bash.

(zsh: `autoload -U bashcompinit && bashcompinit` before. What jsonargparse offers asks Python at each TAB, for seconds.)
"""

import re
from contextlib import redirect_stdout, suppress
from io import StringIO

from lightning.pytorch.cli import LightningCLI

from src import cli

SCRIPT = """_src() {{
    local words="{verbs}"
    [ "${{COMP_WORDS[1]}} ${{COMP_WORDS[2]}}" = "-m src" ] || return
    if [ "$COMP_CWORD" -gt 3 ]; then
        case "${{COMP_WORDS[3]}}" in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o default -F _src python python3
"""


def options(*args: str) -> set[str]:
    """The options that a help names.

    Args:
        args: A command line that asks for it.
    """
    with redirect_stdout(StringIO()) as shown, suppress(SystemExit):
        cli.main(list(args))
    return set(re.findall(r"^  (?:-\w.*?)?(--[a-z][\w.]*)", shown.getvalue(), re.MULTILINE))


def script() -> str:
    """What bash has to read: the options of each verb, and of the LightningModule."""
    verbs = list(LightningCLI.subcommands())
    model = options("fit", "--model.help", "src.module.LitModule")
    cases = (f'            {verb}) words="{" ".join(sorted(options(verb, "--help") | model))}" ;;' for verb in verbs)
    return SCRIPT.format(verbs=" ".join(verbs), cases="\n".join(cases))


def main(args: list[str]) -> None:
    """Print the script."""
    print(script(), end="")
