"""Freeze a part of the net, and train it along later: named in YAML, see configs/callbacks/freeze.yaml."""

from lightning.pytorch import Callback, LightningModule, Trainer

from src.engine.errors import UserError


class Freeze(Callback):
    """Keeps the weights of some modules as they are, and those modules as in evaluation, for the first epochs.

    With DDP take the strategy `ddp_find_unused_parameters_true`.

    Args:
        modules: Their names, as the model has them: [net.layers.0].
        until_epoch: The first epoch that trains them, too; none does by default.
    """

    def __init__(self, modules: list[str], until_epoch: int | None = None) -> None:
        self.modules = modules
        self.until_epoch = until_epoch

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        known = [name for name, _ in module.named_modules() if name]
        if unknown := [name for name in self.modules if name not in known]:
            raise UserError(f"Freeze: there is no module {', '.join(unknown)}; there are {', '.join(known)}.")
        self._set(trainer, module)

    def on_train_epoch_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._set(trainer, module)

    def _set(self, trainer: Trainer, module: LightningModule) -> None:
        trained = self.until_epoch is not None and trainer.current_epoch >= self.until_epoch
        for name in self.modules:
            part = module.get_submodule(name)
            part.requires_grad_(trained)
            part.train(trained)
