"""Make random numbers of torch, NumPy and Python functions of the run's seed; your own generator objects are not seen.

Hooks of data draw the same in every stage, verb and process. `setup()` runs for the fit and again for the test: a
`random_split` there would otherwise put rows that trained into the test set. What a sample draws is a function of
(seed, epoch, index), in an evaluation of (seed, stage, index). Training notices none of it.
"""

import hashlib
import itertools
import operator
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset, TensorDataset, default_collate

from src.engine.errors import UserError
from src.engine.processes import is_rank_zero

# Hooks that return loaders share the seed's own stream: a split that is drawn in each of them is one split.
STREAMS = {"__init__": 1, "prepare_data": 2, "setup": 3}
PROBE = 17
_outside: list[dict[str, Any]] = []  # states from before each `seeded` block
_number = torch.empty((), dtype=torch.int64)
_spare = np.random.MT19937(0)  # np.random.seed takes this kind, whatever the run's own is


def hash_seed(*parts: Any) -> int:
    """Hash numbers and texts to a seed of 32 bits: neighbours give seeds that have nothing in common."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest())


def seed_all(number: int) -> None:
    """Seed the three generators of the CPU with up to 64 bits."""
    torch.default_generator.manual_seed(number)  # torch.manual_seed would take 150 times as long
    np.random.seed(number % 2**32)
    random.seed(number)


def draw_all() -> tuple[int, float, float]:
    """Draw a number from each generator: after the same seed others come if something else drew, too."""
    return int(_number.random_(generator=torch.default_generator)), np.random.random(), random.random()


def first_draws(number: int) -> tuple[int, float, float]:
    """Draw a number from each generator after `seed_all(number)`."""
    with preserve_rng_state():
        seed_all(number)
        return draw_all()


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Leave the CPU generators of this process as they were. Do not nest it.

    Only the second number that `np.random.normal` keeps for its next call is lost: to read it takes as long as a batch.
    """
    torch_state, python_state = torch.default_generator.get_state(), random.getstate()
    numpy_generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    np.random.set_bit_generator(_spare)  # type: ignore[attr-defined] # to copy a state takes as long as a batch, too
    try:
        yield
    finally:
        torch.default_generator.set_state(torch_state)
        random.setstate(python_state)
        np.random.set_bit_generator(numpy_generator)  # type: ignore[attr-defined]


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Seed every generator of the process, with up to 64 bits, for a block; then put each back where it was."""
    _outside.append(_current_state())
    try:
        seed_all(number)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(number)
        if torch.mps.is_available():
            torch.mps.manual_seed(number)
        yield
    finally:
        set_random_state(_outside.pop())


def random_state() -> dict[str, Any]:
    """Return the states of this process's generators as plain values; in an evaluation, those from before it."""
    return _outside[0] if _outside else _current_state()


def _current_state() -> dict[str, Any]:
    numpy_kind, numpy_words, *numpy_rest = np.random.get_state()
    version, python_words, gauss = random.getstate()
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call] # starting it here would forbid to fork later
    return {
        "torch": torch.get_rng_state(),
        "cuda": [state.cpu() for state in torch.cuda.get_rng_state_all()] if cuda else [],
        "mps": torch.mps.get_rng_state().cpu() if torch.mps.is_available() else None,
        # As tensors: a checkpoint of a thousand single numbers would take four times as long to write.
        "python": (version, torch.tensor(python_words), gauss),
        "numpy": (numpy_kind, torch.from_numpy(np.asarray(numpy_words, np.int64)), *numpy_rest),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back.

    Args:
        state: As `random_state` gives it. CUDA devices that are not here are left out.
    """
    torch.set_rng_state(state["torch"].cpu())
    for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(value.cpu(), device)
    if state["mps"] is not None and torch.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, words, *rest = state["numpy"]
    np.random.set_state((kind, words.cpu().numpy(), *rest))


class SeededDataset:
    """Gives a DataLoader batches whose random numbers are functions of (seed, epoch, index).

    Its samples are (hash of seed and epoch, index); `collate` fetches the real ones and makes the batch. Seeding three
    generators for each sample costs more than many samples do, and most draw nothing. So they are seeded once for a
    batch. If something drew, the batch is made again: the generators are seeded for each sample and for the collate
    function, and so they are in every later batch. A batch that a data set makes as a whole is seeded for its first
    sample.

    Args:
        dataset: Map-style.
        collate_fn: Of its loader.
        batched: Whether an item is a sample; else it is a batch.
    """

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any], batched: bool = True) -> None:
        self.dataset, self.collate_fn, self._batched = dataset, collate_fn, batched
        inner = dataset
        while type(inner) is Subset:
            inner = inner.dataset
        # A batch of these is one index operation, with the same bits and ten times as fast.
        self._takes_lists = batched and type(inner) is TensorDataset and collate_fn is default_collate
        self._draws, self._first_draws = False, first_draws(PROBE)
        self._whole = not batched  # whether the data set makes batches that are no lists of samples

    def __getitem__(self, place: Any) -> Any:
        return place

    __getitems__ = __getitem__

    def collate(self, place: tuple[int, list[Any]]) -> Any:
        """Make a batch; what the collate function draws is a function of the batch's first sample."""
        key, index = place
        if self._takes_lists:
            return list(self.dataset[index])
        with preserve_rng_state():
            if not self._draws:
                seed_all(PROBE)
                samples = self._fetch(index)
                self._whole = not (self._batched and isinstance(samples, list | tuple))
                batch = self.collate_fn(samples)
                if draw_all() == self._first_draws:
                    return batch
                self._draws = True
            parts = []
            for part in [index] if self._whole else [[each] for each in index]:
                seed_all(hash_seed(key, _as_number(part[0])))
                parts.append(self._fetch(part))
            samples = parts[0] if self._whole else list(itertools.chain.from_iterable(parts))
            seed_all(hash_seed(key, _as_number(index[0]), "collate"))
            return self.collate_fn(samples)

    def _fetch(self, index: list[Any]) -> Any:
        if not self._batched:
            return self.dataset[index[0]]
        many = getattr(self.dataset, "__getitems__", None)
        return many(index) if many else [self.dataset[each] for each in index]


def _as_number(index: Any) -> Any:
    try:
        return operator.index(index)  # of an int, NumPy's, a tensor's: one number is one sample
    except TypeError:
        return index


def settle_seed(given: bool | int) -> int:
    """Draw a seed where the option is `true` or `false`; all processes of a run get the same one.

    Args:
        given: `seed_everything`.

    Raises:
        UserError: If it has more than 32 bits, or is below 0.
    """
    if not isinstance(given, bool):
        if not 0 <= given < 2**32:
            raise UserError(f"seed_everything={given} must be 0 to {2**32 - 1}. Set --seed_everything.")
        return given
    # torchrun and SLURM start the processes of a run independently of each other, and start them again.
    job = [os.environ[name] for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID") if name in os.environ]
    if not job and not is_rank_zero() and {"PL_GLOBAL_SEED", "WORLD_SIZE"} <= os.environ.keys():
        return int(os.environ["PL_GLOBAL_SEED"])  # rank zero has set it, and has started this process
    if not job and os.environ.keys() & {"LOCAL_RANK", "NODE_RANK"}:  # started by hand
        job = [os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ]
    return (random.Random("/".join(job)) if job else random.SystemRandom()).getrandbits(32)
