"""The config as trackers show it: one level of names, as on the command line, and numbers that stay numbers."""

from typing import Any


def flat_options(config: dict[str, Any]) -> dict[str, Any]:
    """Every option by its name: `model.optimizer` is a class, `model.optimizer.lr` a number.

    Args:
        config: Plain values, nested.

    Returns:
        Numbers, texts, truth values and None. A list of classes is numbered, `trainer.callbacks.0`; another list is a
        text.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= _flat(name, value)
    return flat


def _flat(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        return {name: str(value) if isinstance(value, list) else value}
    flat: dict[str, Any] = {}
    if "class_path" in value:
        # Named as on the command line, where nobody writes init_args.
        flat[name] = value["class_path"]
        value = {**value.get("init_args", {}), **value.get("dict_kwargs", {})}
    for part, inner in value.items():
        flat |= _flat(f"{name}.{part}", inner)
    return flat
