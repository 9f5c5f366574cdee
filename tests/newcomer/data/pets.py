import json
import random
from pathlib import Path
from typing import Any, List, Optional, Tuple

import torch
from lightning.pytorch import LightningDataModule
from PIL import Image
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision import transforms


class PetDataset(Dataset):
    extensions = [".jpg", ".png"]

    def __init__(self, root: str, transform: Optional[Any] = None, labels: List[str] = None):
        self.root = Path(root)
        self.transform = transform
        self.labels = labels
        self.files = sorted(f for f in self.root.rglob("*") if f.suffix.lower() in self.extensions)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tuple[torch.Tensor, int]:
        img = Image.open(self.files[index]).convert("RGB")
        if self.transform:
            img = self.transform(img)
        return img, self.labels.index(self.files[index].parent.name)


class PetsDataModule(LightningDataModule):
    """Pets, in one folder per class"""

    def __init__(self, root: str = "data/pets", image_size: int = 224, batch_size: int = 32, val_split: float = 0.1) -> None:
        super().__init__()
        self.root = root
        self.image_size = image_size
        self.batch_size = batch_size
        self.val_split = val_split
        self.train: Optional[Dataset] = None
        self.val = None
        self.labels = []

    def setup(self, stage: Optional[str] = None) -> None:
        with open(self.root + "/labels.json") as f:
            self.labels = json.load(f)
        t = transforms.Compose([transforms.Resize((self.image_size, self.image_size)), transforms.ToTensor()])
        dataset = PetDataset(self.root, t, self.labels)
        n_val = int(len(dataset) * self.val_split)
        self.train, self.val = random_split(dataset, [len(dataset) - n_val, n_val])

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=self.batch_size)

    def sample(self):
        i = random.randint(0, len(self.train) - 1)
        return self.train[i]
