"""A DataLoader with workers that resumes amid an epoch, and workers that outlive a signal for the whole job."""

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DistributedSampler
from torchdata.stateful_dataloader import StatefulDataLoader  # type: ignore[import-untyped]


def leave_signals_to_the_run(worker: int) -> None:
    """A DataLoader's `worker_init_fn`, for any with workers.

    A terminal's Ctrl-C, a scheduler's warning and SIGTERM go to every process of a job. Workers would die of them, and
    the run with them, before it can save. They end when the run does; a second SIGTERM ends them at once.

    Args:
        worker: Its number.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows has but one of them
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


class EpochSampler(DistributedSampler[Any]):
    """Places (epoch, index): workers have no other way to learn the epoch.

    A DistributedSampler, which Lightning leaves as it is and tells the epoch.
    """

    def __iter__(self) -> Iterator[Any]:
        return ((self.epoch, index) for index in super().__iter__())


class EpochLoader(StatefulDataLoader):  # type: ignore[misc]
    """A StatefulDataLoader that starts its workers when the first batch is asked for, and not before.

    Lightning makes the iterator of a resumed run before it tells the sampler the epoch, and workers prefetch.
    """

    _epoch = -1
    _state: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        state, self._state, self._epoch = self._state, None, self.sampler.epoch
        # A position in another epoch says nothing about this one.
        super().load_state_dict(state["position"] if state and state["epoch"] == self._epoch else {})
        yield from super().__iter__()

    def state_dict(self) -> dict[str, Any]:
        running = self._epoch >= 0
        return {"epoch": self._epoch, "position": super().state_dict() if running else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state = state
