"""One seed for the life of a run: what a data module draws is the same in every stage, verb and process.

`setup()` runs for the fit and again for the test. A `random_split` there without a generator would be another one, and
the test set would hold rows that were trained on. So hooks of data draw from the run's seed alone, and leave the
generators of the process (torch, NumPy, Python, CUDA, MPS) as they found them: training does not depend on what was
drawn in `setup`. This covers splits by torch, scikit-learn, pandas and whatever else draws from those generators,
in `__init__`, `prepare_data`, `setup` and the hooks that return loaders.

What an evaluation draws is a function of (seed, stage, batch), and in a sample of (seed, stage, index): a test after a
fit and a later `test --ckpt_path` give one result, and training does not depend on what a validation draws.

The seed is part of the config: `seed_everything: true` and `false` draw one there. A checkpoint's seed stays the run's,
whatever `--seed_everything` says. A generator of your own needs a seed: `np.random.default_rng()` draws anew each time.
"""

import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from src.engine.data.draws import GENERATORS, apart
from src.engine.data.order import RunSeed, mix
from src.engine.data.random_state import aside
from src.engine.errors import UserError
from src.engine.processes import is_rank_zero

# Numbers that keep apart what is drawn at different times. Hooks that return loaders share one stream, the seed's own:
# a split that is drawn in each of them is one split, and a loader finds the run's seed in `torch.initial_seed()`.
STREAMS = {"__init__": 1, "prepare_data": 2, "setup": 3}
JOBS = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")


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
    # These start the processes of a run independently of each other, and start them again.
    job = [os.environ[name] for name in JOBS if name in os.environ]
    if not job and not is_rank_zero() and {"PL_GLOBAL_SEED", "WORLD_SIZE"} <= os.environ.keys():
        return int(os.environ["PL_GLOBAL_SEED"])  # rank zero has set it, and has started this process
    if not job and os.environ.keys() & {"LOCAL_RANK", "NODE_RANK"}:  # started by hand
        job = [os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT") if name in os.environ]
    return (random.Random("/".join(job)) if job else random.SystemRandom()).getrandbits(32)


def _seed(number: int) -> None:
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


def _seed_devices(number: int) -> None:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call] # to start it here would forbid to fork later
        torch.cuda.manual_seed_all(number)
    if torch.mps.is_available():
        torch.mps.manual_seed(number)


def has_drawn(number: int) -> bool:
    """Whether something was drawn since the block of `seeded(number)` began; seeds the generators again."""
    now = [draw() for _, draw in GENERATORS.values()]
    _seed(number)
    return now != [draw() for _, draw in GENERATORS.values()]


@contextmanager
def seeded(number: int) -> Iterator[None]:
    """Seed every generator of the process for a block, then put each back where it was.

    Args:
        number: The seed, of up to 64 bits.
    """
    before = torch.initial_seed()
    cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if cuda else []
    mps_state = torch.mps.get_rng_state() if torch.mps.is_available() else None
    try:
        with apart():
            _seed(number)
            _seed_devices(number)
            yield
    finally:
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
        elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(before)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)


class SeededLoop:
    """The `run` of a loop that evaluates: what is drawn in it follows from the seed, and training does not notice.

    Args:
        loop: Lightning's. Its bound method cannot be pickled, as a spawned process needs it.
        stage: `val`, `test` or `predict`.
        trainer: Whose loop it is.
        seed: Of the run.
    """

    def __init__(self, loop: Any, stage: str, trainer: Trainer, seed: RunSeed) -> None:
        self._loop = loop
        self._stage = zlib.crc32(stage.encode())
        self._trainer = trainer
        self._seed = seed

    def __call__(self) -> Any:
        with aside(), seeded(self._number()):
            return type(self._loop).run(self._loop)

    def seed_batch(self, batch_idx: int, dataloader_idx: int) -> None:
        """Seed the generators for a step; each process has other rows, and draws other numbers."""
        number = self._number(dataloader_idx, batch_idx)
        _seed(number)
        _seed_devices(number)

    def _number(self, *numbers: int) -> int:
        return mix(self._seed.value, self._stage, self._trainer.global_rank, *numbers, 4)


def seed_evaluation(trainer: Trainer, seed: RunSeed) -> None:
    """Let each evaluation of a trainer draw from the seed.

    Args:
        trainer: It may have been given another seed before.
        seed: Of the run.
    """
    for stage, loop in evaluation_loops(trainer):
        loop.run = SeededLoop(loop, stage, trainer, seed)


def evaluation_loops(trainer: Trainer) -> list[tuple[str, Any]]:
    """Return Lightning's loops of validation, test and predict, with the stage of each."""
    return [
        ("val", trainer.fit_loop.epoch_loop.val_loop),
        ("val", trainer.validate_loop),
        ("test", trainer.test_loop),
        ("predict", trainer.predict_loop),
    ]


def seed_batch(trainer: Trainer, batch_idx: int, dataloader_idx: int) -> None:
    """Seed the generators for the step of the evaluation at hand."""
    loops = dict(zip(("fit", "validate", "test", "predict"), evaluation_loops(trainer), strict=True))
    _, loop = loops[str(trainer.state.fn.value if trainer.state.fn else "fit")]
    if isinstance(loop.run, SeededLoop):
        loop.run.seed_batch(batch_idx, dataloader_idx)
