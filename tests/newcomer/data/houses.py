import os

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset

COLUMNS = ["area", "rooms", "year"]

class HouseDataset(Dataset):
    def __init__(self, df, scaler=None):
        self.x = df[COLUMNS].values.astype(np.float32)
        self.y = df["price"].values.astype(np.float32)
        if scaler is not None:
            self.x = scaler.transform(self.x)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, idx):
        return torch.tensor(self.x[idx]), torch.tensor([self.y[idx]])

class HousesDataModule(pl.LightningDataModule):
    def __init__(self, data_dir="data", batch_size=32, num_workers=0):
        super().__init__()
        self.data_dir = data_dir
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.train_ds = None
        self.val_ds = None

    def setup(self, stage=None):
        path = os.path.join(self.data_dir, "houses.csv")
        try:
            df = pd.read_csv(path)
        except Exception as e:
            raise ValueError("could not read %s: %s" % (path, e))
        train, val = train_test_split(df, test_size=0.2, random_state=0)
        scaler = StandardScaler().fit(train[COLUMNS])
        self.train_ds = HouseDataset(train, scaler)
        self.val_ds = HouseDataset(val, scaler)
        print(f"{len(self.train_ds)} houses for training, {len(self.val_ds)} for validation, read from {path}, {len(COLUMNS)} columns")

    def train_dataloader(self):
        return DataLoader(self.train_ds, batch_size=self.batch_size, shuffle=True, num_workers=self.num_workers)

    def val_dataloader(self):
        return DataLoader(self.val_ds, batch_size=self.batch_size, num_workers=self.num_workers)

    test_dataloader = val_dataloader
