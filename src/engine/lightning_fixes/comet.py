"""A repair of Lightning's CometLogger; its test, as it needs the package, is in tests/engine/test_trackers_real.py."""

import os
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.loggers import CometLogger

# Comet prints all it was told, and copies what TensorBoard is told beside it: each number would stand there twice.
COMET_SAYS: dict[str, Any] = {"display_summary_level": 0, "auto_metric_logging": False}


class OfflineCometLogger(CometLogger):
    """Lightning's, told `online=False`, starts an experiment that is disabled and writes nothing.

    Lightning issue 21617, open. Comet reads the same from its environment.
    """

    def __init__(
        self, folder: Path, project: str, name: str, experiment_key: str, mode: Literal["get", "create"]
    ) -> None:
        os.environ["COMET_START_ONLINE"] = "false"
        super().__init__(
            project=project,
            name=name,
            experiment_key=experiment_key,
            mode=mode,
            offline_directory=str(folder),
            **COMET_SAYS,
        )
