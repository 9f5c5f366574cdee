"""Each warning stands once, in a line, without the source that it comes from."""

import warnings

import pytest
from lightning.pytorch import Callback

from src.engine.run.quiet import warnings_in_one_line
from tests.conftest import SMALL

ONE_EPOCH = ("--trainer.max_epochs=1", "--data.passes=3", f"--trainer.callbacks={__name__}.Warns")


class Warns(Callback):
    """Warns as users do and as a package does, in each step."""

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        warnings.warn(f"batch {batch_idx // 2}\nis odd (Triggered internally at /pytorch/Tensor.cpp:12.)", stacklevel=1)
        for number in range(2):
            from_package(f"Glyph {batch_idx + number} is missing")


def from_package(text):
    warnings.warn_explicit(text, UserWarning, "/usr/lib/site-packages/letters/draw.py", 7, registry={})


def notes(err):
    return [line for line in err.splitlines() if line.startswith("note: ")]


def test_a_run_shows_each_warning_once_and_loses_none_of_ones_own(cli):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = cli("fit", "--config", SMALL, *ONE_EPOCH)
    assert done.code == 0
    line = Warns.on_train_batch_end.__code__.co_firstlineno + 1
    own = [f"note: batch {number} is odd (test_quiet.py:{line})" for number in (0, 1)]
    assert notes(done.err) == [own[0], "note: letters: Glyph 0 is missing", own[1]]
    for word in ("Warning:", "site-packages", "warnings.warn"):
        assert word not in done.err


def test_quiet_turned_off_says_where_a_warning_comes_from(cli):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = cli("fit", "--config", SMALL, *ONE_EPOCH, "--quiet.enabled=false")
    assert notes(done.err) == []
    assert {"/usr/lib/site-packages/letters/draw.py", __file__} <= {each.filename for each in caught}


def test_a_program_that_calls_the_command_line_shows_it_once_for_all_runs(capfd):
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with warnings_in_one_line():
            for fold in range(3):
                with warnings_in_one_line():
                    from_package(f"class {fold} has 2 members")
        with warnings_in_one_line():
            from_package("class 1 has 2 members")
    assert warnings.showwarning is before
    assert notes(capfd.readouterr().err) == [f"note: letters: class {number} has 2 members" for number in (0, 1)]


def test_filters_of_the_user_act(capfd):
    with warnings.catch_warnings(), warnings_in_one_line():
        warnings.simplefilter("ignore")
        from_package("nothing")
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="a mistake"):
            from_package("a mistake")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rank", ["RANK", "LOCAL_RANK"])
def test_of_several_processes_one_shows_what_a_package_warns_of(capfd, monkeypatch, rank):
    monkeypatch.setenv(rank, "1")
    with warnings.catch_warnings(), warnings_in_one_line():
        warnings.simplefilter("always")
        from_package("the same on each")
        warnings.warn("mine", stacklevel=1)
    (line,) = notes(capfd.readouterr().err)
    assert line.startswith("note: mine (")
