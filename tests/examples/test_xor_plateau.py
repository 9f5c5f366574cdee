import csv
import re

import pytest
import torch
from matplotlib.image import imread

from src.tools import xor_plateau
from tests.conftest import CONFIGS


def test_a_seed_side_by_side_with_others_has_the_losses_of_its_own_run(cli, tmp_path):
    losses, solved = xor_plateau.train(4, 5, 500)
    assert solved[-1, 1:3].tolist() == [True, False]  # seed 2 stays on the plateau
    options = ("--trainer.max_epochs=10", "--data.passes=50", "--trainer.callbacks=null", "--trainer.accelerator=cpu")
    done = cli("fit", "--config", CONFIGS / "xor.yaml", "--seed_everything=1", *options)
    assert done.code == 0, done.err
    assert done.metrics["test/acc"] == 1.0
    with (tmp_path / "runs/xor/version_0/metrics.csv").open(newline="") as file:
        theirs = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    ours = losses[:, 1].view(10, 50).mean(dim=1)  # of each epoch
    assert ours.tolist() == pytest.approx(theirs, rel=1e-4)


def test_the_plateau_is_left_at_the_step_from_which_the_loss_stays_below():
    high, low = xor_plateau.PLATEAU, 0.1
    losses = torch.tensor([[high, low, high, low], [low, low, low, low], [high, low, low, high]]).T.contiguous()
    # Seeds: back up once; low from the start; high again at the last step.
    assert xor_plateau.left_at(losses).tolist() == [4, 1, torch.inf]


def test_it_prints_a_row_for_each_width_and_draws_them(tmp_path, capsys):
    xor_plateau.main(["--hidden", "2", "16", "--seeds", "6", "--steps", "80", "--to", f"{tmp_path}/new/it.png"])
    rows = re.findall(r"^ *(\d+)  (\d+)/6 ", capsys.readouterr().out, re.MULTILINE)
    solved = {str(hidden): str(int(xor_plateau.train(hidden, 6, 80)[1][-1].sum())) for hidden in (2, 16)}
    assert dict(rows) == solved
    assert imread(tmp_path / "new/it.png").std() > 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--hidden", "0"], "must be at least 1"), (["--to", "a.foo"], "foo"), (["--to", "file/a.png"], "cannot write")],
)
def test_mistakes_are_refused_before_the_training(options, words, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(xor_plateau, "train", lambda *args: pytest.fail("it trained"))
    with pytest.raises(SystemExit, match=words):
        xor_plateau.main(options)


@pytest.mark.slow
def test_four_units_solve_it_for_344_of_500_seeds_and_more_units_for_more():
    solved = {hidden: int(xor_plateau.train(hidden, 500, 2_000)[1][-1].sum()) for hidden in (4, 8, 16)}
    assert solved == {4: 344, 8: 487, 16: 500}
