"""After a fit: how it went, where it lies, what to type next."""

import re
import shlex

from tests.conftest import CONFIGS, SMALL

SHORT = ("--trainer.max_epochs=2", "--data.passes=5", "--trainer.callbacks=null")


def test_fit_ends_with_time_speed_best_test_folder_and_next_command(cli):
    done = cli("fit", "--config", SMALL, *SHORT)
    fit, best, test, run, following = done.out.splitlines()[-5:]
    assert re.fullmatch(r"fit   [\d.]+ s, 2 epochs, 10 steps, [\d,]+ samples/s", fit)
    assert re.fullmatch(r"best  val/loss 0\.\d{4}", best)
    assert re.fullmatch(r"test  test/loss 0\.\d{4}  test/acc [01]\.\d{4}", test)
    assert run == "run   runs/xor/version_0"
    assert following == "next  python -m src predict --ckpt_path runs/xor/version_0/checkpoints/best.ckpt"


def test_the_next_command_is_one_that_runs(cli):
    done = cli("fit", "--config", SMALL, *SHORT, "--test_after_fit=false")
    words = shlex.split(done.out.splitlines()[-1])
    assert words[:4] == ["next", "python", "-m", "src"]
    assert cli(*words[4:]).code == 0


def test_mnist_names_the_option_that_predict_needs(cli, mnist):
    few = ("--trainer.limit_train_batches=1", "--trainer.max_epochs=1")
    done = cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *few)
    assert done.out.splitlines()[-1].endswith(" --data.predict_path digit.png")
