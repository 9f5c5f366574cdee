"""Lightning's Trainer, with batch limits that tell 1 (one batch) from 1.0 (all of them)."""

from typing import Annotated, Any

import lightning.pytorch as pl

# Python keeps one object for Union[int, float] and Union[float, int], whichever was made first, and where that is the
# latter a parser turns 1 into 1.0. An annotated int is a type of its own.
Batches = Annotated[int, "batches"] | float | None


class Trainer(pl.Trainer):
    """See https://lightning.ai/docs/pytorch/stable/common/trainer.html for what the other options do.

    Args:
        limit_train_batches: How much of an epoch to train on: 10 batches, or 0.1 of them.
        limit_val_batches: The same for validation.
        limit_test_batches: The same for the test.
        limit_predict_batches: The same for predict.
        options: Lightning's own.
    """

    def __init__(
        self,
        limit_train_batches: Batches = None,
        limit_val_batches: Batches = None,
        limit_test_batches: Batches = None,
        limit_predict_batches: Batches = None,
        **options: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **options,
        )
