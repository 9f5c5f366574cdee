"""trackio for Lightning, which has no logger for it: a tracker that keeps its runs on this machine."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only


class TrackioLogger(Logger):
    """Writes into trackio's own folder, ~/.cache/huggingface/trackio or TRACKIO_DIR; `trackio show` opens it.

    Args:
        project: What the runs that are compared have in common.
        name: Of the run. One of this name goes on: choose it so that there is no other.
    """

    def __init__(self, project: str, name: str) -> None:
        super().__init__()
        self._project = project
        self._name = name
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run itself; it takes pictures and tables, too."""
        if self._run is None:
            import trackio  # a second, for those who use it

            self._run = trackio.init(project=self._project, name=self._name, resume="allow", embed=False)
        return self._run

    @property
    def name(self) -> str:
        return self._project

    @property
    def version(self) -> str:
        return self._name

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Add to the run's config; trackio sends it with the first metrics."""
        self.experiment.config.update(vars(params) if isinstance(params, Namespace) else params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)
