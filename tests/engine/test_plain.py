"""A checkpoint holds plain values: what those are, what metrics keep, and what a data module learned."""

import datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torchmetrics.classification import BinaryAccuracy

from src.engine.checkpoint.files import is_plain, pack_checkpoint
from src.engine.checkpoint.resume import changed_states, metric_states, set_metric_states
from tests import stopping

PLAIN = {"a": [1, 0.5, "b", None, True, (2,), {1}, b"c", np.float64(0.1)], 4: torch.ones(2)}


def test_plain_values_are_told_from_objects():
    assert is_plain(PLAIN)
    for value in (np.ones(2), datetime.date(2024, 2, 29), len, nn.Linear(1, 1)):
        assert not is_plain({"a": [0, value]})


def test_numbers_of_numpy_become_pythons_and_a_net_among_hyperparameters_is_left_out():
    state = nn.Linear(1, 1).state_dict()
    checkpoint = {"state_dict": state, "lr": [np.float64(0.1)], "hyper_parameters": {"net": nn.ReLU(), "width": 3}}
    pack_checkpoint(checkpoint)
    assert type(checkpoint["lr"][0]) is float
    assert checkpoint["hyper_parameters"] == {"width": 3}
    assert checkpoint["state_dict"] is state  # no copy, and the versions of its modules


def test_an_option_of_a_metric_is_not_restored():
    module = nn.ModuleDict({"acc": BinaryAccuracy(threshold=0.1)})
    before = metric_states(module)
    module["acc"].update(torch.ones(1), torch.ones(1))
    other = nn.ModuleDict({"acc": BinaryAccuracy(threshold=0.9)})
    set_metric_states(other, changed_states(before, metric_states(module)))
    assert other["acc"].compute() == 1
    assert other["acc"].threshold == 0.9


class Learned(stopping.Sums):
    """Learns the words of a file in its setup, unless a checkpoint brings them."""

    words: tuple[str, ...] = ()

    def setup(self, stage):
        if not self.words:
            print("learns a vocabulary")
            self.words = tuple(Path("words.txt").read_text().split())

    predict_dataloader = stopping.Sums.val_dataloader

    def state_dict(self):
        return {"words": self.words}

    def load_state_dict(self, state):
        self.words = state["words"]


def test_a_checkpoint_brings_what_was_learned_to_every_verb_but_not_to_a_new_run(fit_sums, cli):
    Path("words.txt").write_text("a fine book")
    new = (f"--data={__name__}.Learned", "--trainer.max_epochs=1")
    assert fit_sums(*new).out.count("learns a vocabulary") == 1
    run = "runs/sums/version_0"
    Path("words.txt").unlink()
    for words in (["test"], ["fit", "--trainer.max_epochs=2"], ["predict"]):
        done = cli(*words, "--ckpt_path", run)
        assert done.code == 0, done.err
    kept = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)
    assert (kept["global_step"], kept["Learned"]) == (24, {"words": ("a", "fine", "book")})
    Path("words.txt").write_text("another one")
    assert fit_sums(*new, f"--transfer.weights={run}").out.count("learns a vocabulary") == 1
