"""One seed for the life of a run: what a data module draws is the same in every stage, verb and process.

`setup()` runs for the fit and again for the test. A `random_split` there without a generator would be another one, and
the test set would hold rows that were trained on. So hooks of data draw from the run's seed alone, and leave the
generators of the process (torch, NumPy, Python, CUDA, MPS) as they found them: training does not depend on what was
drawn in `setup`. This covers splits by torch, scikit-learn, pandas and whatever else draws from those generators,
in `__init__`, `prepare_data`, `setup` and the hooks that return loaders.

The seed is part of the config: `seed_everything: true` and `false` draw one there. A checkpoint's seed stays the run's,
whatever `--seed_everything` says. A generator of your own needs a seed: `np.random.default_rng()` draws anew each time.
"""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from src.engine.draws import GENERATORS, apart
from src.engine.ranks import is_rank_zero

# Numbers that keep apart what is drawn at different times. Hooks that return loaders share one stream, the seed's own:
# a split that is drawn in each of them is one split, and a loader finds the run's seed in `torch.initial_seed()`.
STREAMS = {"__init__": 1, "prepare_data": 2, "setup": 3}
JOBS = ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID")


def settle_seed(given: bool | int) -> int:
    """Draw a seed where the option is `true` or `false`; all processes of a run get the same one.

    Args:
        given: `seed_everything`.
    """
    if not isinstance(given, bool):
        return given
    # These start the processes of a run independently of each other, and start them again.
    if job := "/".join(os.environ[name] for name in JOBS if name in os.environ):
        return random.Random(job).getrandbits(32)
    if not is_rank_zero() and "PL_GLOBAL_SEED" in os.environ:  # started by rank zero, which has set it
        return int(os.environ["PL_GLOBAL_SEED"])
    return random.SystemRandom().getrandbits(32)


def _seed(number: int) -> None:
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)


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
            if cuda:  # to start it here would forbid to fork processes later
                torch.cuda.manual_seed_all(number)
            if mps_state is not None:
                torch.mps.manual_seed(number)
            yield
    finally:
        if cuda:
            torch.cuda.set_rng_state_all(cuda_states)
        elif torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(before)
        if mps_state is not None:
            torch.mps.set_rng_state(mps_state)
