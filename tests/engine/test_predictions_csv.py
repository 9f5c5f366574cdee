"""`predict` prints a table and writes predictions.csv."""

import csv
import re

import torch

from src.engine.predictions_csv import plain_rows
from tests.conftest import SMALL

SHORT = ("--trainer.max_epochs=1", "--data.passes=5", "--trainer.callbacks=null")


def test_xor_prints_input_output_and_truth(cli):
    assert cli("fit", "--config", SMALL).code == 0
    out = cli("predict", "--ckpt_path", "runs/xor/version_0").out
    assert re.search(r"input +output +truth\n0 0 +0\.\d+ +0\n0 1 +0\.99\d* +1\n1 0 +0\.99\d* +1\n1 1 +0\.\d+ +0\n", out)


def test_predictions_of_two_commands_stand_side_by_side(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    for _ in range(2):
        assert cli("predict", "--ckpt_path", "runs/xor/version_0").code == 0
    files = sorted(tmp_path.glob("runs/xor/*/predictions.csv"))
    assert [file.parent.name for file in files] == ["version_1", "version_2"]
    assert [row["input"] for row in csv.DictReader(files[0].open())] == ["0 0", "0 1", "1 0", "1 1"]


def test_many_rows_are_cut_on_the_screen_and_whole_in_the_file(cli, tmp_path):
    assert cli("fit", "--config", SMALL, *SHORT).code == 0
    done = cli("predict", "--ckpt_path", "runs/xor/version_0", "--predictions.max_printed=1")
    assert "... and 3 more" in done.out
    assert len((tmp_path / "runs/xor/version_1/predictions.csv").read_text().splitlines()) == 5


def test_a_data_module_without_rows_of_its_own_gets_plain_ones():
    assert plain_rows(torch.tensor([[0.25, 0.75]])) == [{"sample": 0, "score_0": 0.25, "score_1": 0.75}]
    assert plain_rows(torch.tensor([2.5, 3.5])) == [{"sample": 0, "score": 2.5}, {"sample": 1, "score": 3.5}]
