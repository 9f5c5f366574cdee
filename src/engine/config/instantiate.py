"""Objects that a config names: what a library refuses is one line, a user's own class keeps its traceback."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from src.engine.data.order import hash_seed
from src.engine.data.seeding import STREAMS, seeded
from src.engine.errors import UserError

# A class of theirs that refuses its arguments, or misses a package, is right; a class of a user's may have a bug.
LIBRARIES = ("torch", "torchvision", "torchmetrics", "lightning")


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

    def __init__(self, seed: int | None = None) -> None:
        self.raised: list[tuple[BaseException, TracebackType | None]] = []
        self._seed = seed

    def __call__(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        try:
            with self._generators(cls):
                return construct(cls, *args, **kwargs)
        except Exception as error:
            if not self.raised and not isinstance(error, UserError):
                values = ", ".join(f"{name}={value!r:.60}" for name, value in kwargs.items())
                error.add_note(f"from {cls.__module__}.{cls.__qualname__}({values})")
            self.raised.append((error, error.__traceback__))
            raise

    def _generators(self, cls: type) -> AbstractContextManager[None]:
        """Whatever was made before it, a data module draws the same."""
        is_data = inspect.isclass(cls) and issubclass(cls, LightningDataModule)
        if not is_data or self._seed is None:
            return nullcontext()
        return seeded(hash_seed(self._seed, STREAMS["__init__"]))

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()


def instantiate(parser: ArgumentParser, config: Namespace, seed: int | None = None) -> Namespace:
    """Make all objects that a config names; what a class raises arrives as it was raised.

    A parser that tries one type after the other would tell of all of them instead, and of its own way there.

    Args:
        parser: Of the config.
        config: As it was parsed.
        seed: What a data module draws from.
    """
    make = _Maker(seed)
    try:
        made: Namespace = parser.instantiate(config, instantiators=[(make, object, True)])
        return made
    except Exception as error:
        first, way = make.raised[0] if make.raised else _innermost(error)
    raise first.with_traceback(way)


def _innermost(error: BaseException) -> tuple[BaseException, TracebackType | None]:
    """What a function raised that the config names: the parser makes its own of it, several times over."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    way = whole = error.__traceback__
    while way and not way.tb_frame.f_globals.get("__name__", "").startswith("jsonargparse"):
        way = way.tb_next
    while way and way.tb_frame.f_globals.get("__name__", "").startswith("jsonargparse"):
        way = way.tb_next
    return error, way or whole
