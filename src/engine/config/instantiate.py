"""Objects that a config names: what a library refuses is one line, a user's own class keeps its traceback."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from src.engine.config.compose import LIBRARIES
from src.engine.errors import UserError


def construct(cls: type, *args: Any, **kwargs: Any) -> Any:
    """Make an object that the config names.

    Raises:
        UserError: If a library's class refuses its arguments. What a user's own class raises is left as it is.
    """
    try:
        return cls(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        if cls.__module__.partition(".")[0] in LIBRARIES:
            raise UserError(f"{cls.__module__}.{cls.__qualname__}: {error}") from error
        raise


class _Maker:
    """Makes each object; keeps what a class raised first, and where.

    An optimizer that is made later holds it: processes that a run spawns get it without what it kept.
    """

    def __init__(self, surround: Callable[[type], AbstractContextManager[Any]] = nullcontext) -> None:
        self.raised: list[tuple[BaseException, TracebackType | None]] = []
        self._surround = surround

    def __call__(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        try:
            with self._surround(cls):
                return construct(cls, *args, **kwargs)
        except Exception as error:
            if not self.raised and not isinstance(error, UserError):
                values = ", ".join(f"{name}={value!r:.60}" for name, value in kwargs.items())
                error.add_note(f"from {cls.__module__}.{cls.__qualname__}({values})")
            self.raised.append((error, error.__traceback__))
            raise

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


def instantiate(
    parser: ArgumentParser, config: Namespace, surround: Callable[[type], AbstractContextManager[Any]] = nullcontext
) -> Namespace:
    """Make all objects that a config names; what a class raises arrives as it was raised.

    A parser that tries one type after the other would tell of all of them instead, and of its own way there.

    Args:
        parser: Of the config.
        config: As it was parsed.
        surround: The context in which an object of a class is made.
    """
    make = _Maker(surround)
    try:
        made: Namespace = parser.instantiate(config, instantiators=[(make, object, True)])
        return made
    except Exception as error:
        first, way = make.raised[0] if make.raised else (error, error.__traceback__)
        while not make.raised and (inner := first.__cause__ or first.__context__):  # a function raised it
            first, way = inner, inner.__traceback__
    raise first.with_traceback(way)
