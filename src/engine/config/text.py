"""A config as text that gives the same values when it is read, and its references to other values."""

import re
from collections.abc import Callable
from typing import Any

import yaml
from jsonargparse import Namespace

# What YAML 1.2, the parser and OmegaConf take for a number with a fraction: PyYAML would leave such texts bare.
FLOAT = re.compile(
    r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
# `${trainer.max_epochs}`, but neither `\${x}`, a relative `${.x}` nor a resolver as in `${oc.env:NAME}`.
REFERENCE = re.compile(r"(?<!\\)\$\{([a-zA-Z_][\w.\[\]]*)\}")


class Dumper(yaml.SafeDumper):
    """Puts a text that any reader would take for a number between quotes."""


Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def as_yaml(config: Any) -> str:
    """Plain values as YAML."""
    return yaml.dump(config, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000)


def in_texts(change: Callable[[str], str], value: Any) -> Any:
    """A value of any depth with each text changed; the names of a dict stay."""
    if isinstance(value, dict):
        return {name: in_texts(change, part) for name, part in value.items()}
    if isinstance(value, list):
        return [in_texts(change, part) for part in value]
    return change(value) if isinstance(value, str) else value


def texts_in(value: Any) -> list[str]:
    """All texts in a value of any depth, without the names of a dict."""
    parts = vars(value) if isinstance(value, Namespace) else value
    if isinstance(parts, dict | list | tuple):
        return [text for part in (parts.values() if isinstance(parts, dict) else parts) for text in texts_in(part)]
    return [value] if isinstance(value, str) else []


def refer_to(verb: str, value: Any) -> Any:
    """Let `${trainer.max_epochs}` mean the option of this verb; the parser's own names begin with the verb.

    Args:
        verb: `fit`, for example.
        value: A config, or a text of the command line.
    """

    def rename(found: re.Match[str]) -> str:
        return found[0] if found[1].startswith(f"{verb}.") else f"${{{verb}.{found[1]}}}"

    return in_texts(lambda text: REFERENCE.sub(rename, text), value)


def refers(value: Any) -> bool:
    """Whether a text names other values of the config and nothing beyond it: what the environment says may be gone."""
    return isinstance(value, str) and REFERENCE.search(value) is not None and "${" not in REFERENCE.sub("", value)


def resolved(config: dict[str, Any]) -> dict[str, Any]:
    """A config with values in place of its references."""
    if "${" not in str(config):
        return config
    from omegaconf import OmegaConf  # a tenth of a second, which --help need not wait

    values: Any = OmegaConf.to_container(OmegaConf.create(config), resolve=True)
    return dict(values)


def escaped(value: Any) -> Any:
    """Values without references, so that none is read into them."""
    return in_texts(lambda text: text.replace("${", "\\${"), value)
