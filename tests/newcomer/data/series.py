# sliding windows over a time series
import numpy as np
import torch
from torch.utils.data import IterableDataset, DataLoader, get_worker_info
import lightning as L

to_tensor = lambda a: torch.from_numpy(np.asarray(a)).float()

def windows(series, length, step=1):
    for i in range(0, len(series) - length, step):
        yield series[i:i+length], series[i+length]

class Windows(IterableDataset):
    def __init__(self, series, length=24):
        self.series, self.length = series, length
    def __iter__(self):
        info = get_worker_info()
        start, step = (info.id, info.num_workers) if info else (0, 1)
        for x, y in windows(self.series[start:], self.length, step):
            yield to_tensor(x)[:, None], to_tensor([y])

class SeriesDataModule(L.LightningDataModule):
    def __init__(self, path=None, length=24, batch_size=64):
        super().__init__()
        self.save_hyperparameters()
        self.dims = dict(x=(length, 1), y=(1,))
    def setup(self, stage):
        if self.hparams.path is None:
            t = np.arange(2000); series = np.sin(t / 10) + 0.1 * np.random.default_rng(0).normal(size=2000)
        else:
            series = np.loadtxt(self.hparams.path, delimiter=",")
        n = int(len(series) * .8)
        self.parts = {"train": series[:n], "val": series[n:]}
    def loader(self, part):
        return DataLoader(Windows(self.parts[part], self.hparams.length), batch_size=self.hparams.batch_size)
    def train_dataloader(self): return self.loader("train")
    def val_dataloader(self): return self.loader("val")
