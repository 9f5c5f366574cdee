import matplotlib.pyplot as plt
import torch
from lightning.pytorch.callbacks import Callback
from sklearn.metrics import confusion_matrix


class ConfusionPlot(Callback):
    def __init__(self, every_n_epochs=5, class_names=[]):
        self.every_n_epochs = every_n_epochs
        self.class_names = class_names
        self.preds, self.targets = [], []

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        with torch.no_grad():
            self.preds.append(pl_module(x).argmax(1).cpu())
        self.targets.append(y.cpu())

    def on_validation_epoch_end(self, trainer, pl_module):
        preds, targets = torch.cat(self.preds), torch.cat(self.targets)
        self.preds, self.targets = [], []
        if trainer.current_epoch % self.every_n_epochs != 0: return
        cm = confusion_matrix(targets, preds)
        fig, ax = plt.subplots(figsize=(8, 8))
        im = ax.imshow(cm, cmap="Blues")
        for i in range(len(cm)):
            for j in range(len(cm)):
                ax.text(j, i, "%d" % cm[i, j], ha="center", va="center")
        fig.savefig("confusion_%03d.png" % trainer.current_epoch)
        plt.close(fig)
