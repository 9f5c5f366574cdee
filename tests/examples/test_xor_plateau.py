import csv
import re

import pytest
from matplotlib.image import imread

from src.examples import xor_plateau
from tests.conftest import CONFIGS


def test_a_seed_side_by_side_with_others_has_the_losses_of_its_own_run(cli, tmp_path):
    losses, solved = xor_plateau.train(4, 5, 500)
    assert solved[-1, 1:3].tolist() == [True, False]  # seed 2 stays on the plateau
    options = ("--trainer.max_epochs=10", "--data.passes=50", "--trainer.callbacks=null", "--trainer.accelerator=cpu")
    done = cli("fit", "--config", CONFIGS / "xor.yaml", "--seed_everything=1", *options)
    assert done.code == 0, done.err
    with (tmp_path / "runs/xor/version_0/metrics.csv").open(newline="") as file:
        theirs = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    ours = losses[:, 1].view(10, 50).mean(dim=1)  # of each epoch
    assert ours.tolist() == pytest.approx(theirs, rel=1e-4)


def test_it_prints_a_row_for_each_width_and_draws_them(tmp_path, capsys):
    xor_plateau.main(["--hidden", "2", "16", "--seeds", "6", "--steps", "80", "--to", f"{tmp_path}/new/it.png"])
    rows = re.findall(r"^ *(\d+)  (\d+)/6 ", capsys.readouterr().out, re.MULTILINE)
    solved = {str(hidden): str(int(xor_plateau.train(hidden, 6, 80)[1][-1].sum())) for hidden in (2, 16)}
    assert dict(rows) == solved
    assert imread(tmp_path / "new/it.png").std() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize(("hidden", "seeds", "step"), [(4, 344, 40), (8, 487, 27), (16, 500, 20)])
def test_so_many_of_500_seeds_solve_it_and_half_leave_the_plateau_by_this_step(hidden, seeds, step):
    losses, solved = xor_plateau.train(hidden, 500, 2_000)
    assert int(solved[-1].sum()) == seeds
    assert float(xor_plateau.left_at(losses).median()) == step
