"""How files, options, references and the environment become one config, all checked before anything is loaded."""

import pytest
import yaml

from src.engine.config.files import read_env_file
from tests.conftest import SMALL

FIT = ("fit", "--config", SMALL)


@pytest.fixture
def config(cli):
    """The config that a command line amounts to."""

    def build(*more):
        done = cli(*FIT, *more, "--print_config")
        assert done.code == 0, done.err
        return yaml.safe_load(done.out)

    return build


def test_of_several_files_the_later_one_wins_and_the_command_line_over_all(config, tmp_path):
    (tmp_path / "a.yaml").write_text("trainer: {max_epochs: 3, accelerator: cpu}\n")
    (tmp_path / "b.yaml").write_text("trainer: {max_epochs: 4}\ndata: {init_args: {passes: 9}}\n")
    both = config("--config=a.yaml", "--config=b.yaml", "--data.passes=7")
    assert (both["trainer"]["max_epochs"], both["trainer"]["accelerator"]) == (4, "cpu")
    assert both["data"]["init_args"] == {"batch_size": 4, "passes": 7}
    assert config("--config=b.yaml", "--config=a.yaml")["trainer"]["max_epochs"] == 3


def test_a_reference_sees_the_value_that_won(config, tmp_path):
    (tmp_path / "a.yaml").write_text("model: {net: {init_args: {hidden: '${trainer.max_epochs}'}}}\n")
    both = config("--config=a.yaml", "--trainer.max_epochs=6", "--data.batch_size=${data.init_args.passes}")
    assert both["model"]["init_args"]["net"]["init_args"]["hidden"] == 6
    assert both["data"]["init_args"] == {"batch_size": 250, "passes": 250}


def test_the_environment_gives_values_with_a_default(config, monkeypatch):
    assert config("--data.passes=${oc.env:PASSES,3}")["data"]["init_args"]["passes"] == 3
    monkeypatch.setenv("PASSES", "8")
    assert config("--data.passes=${oc.env:PASSES,3}")["data"]["init_args"]["passes"] == 8


def test_the_checkpoint_holds_what_a_reference_came_to(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSES", "5")
    assert cli(*FIT, "--data.passes=${oc.env:PASSES}", "--trainer.max_epochs=1").code == 0
    monkeypatch.delenv("PASSES")
    done = cli("test", "--ckpt_path=runs/xor/version_0")
    assert done.code == 0, done.err
    saved = yaml.safe_load((tmp_path / "runs/xor/version_1/config.yaml").read_text())
    assert saved["data"]["init_args"]["passes"] == 5


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("--trainer.max_epochs=${nope.x}", "trainer.max_epochs: Interpolation key 'nope.x' not found"),
        ("--trainer.max_epochs=${oc.env:NOPE_X}", "'NOPE_X' not found"),
        ("--trainer.max_epochs=${data.class_path}", "expected int or null; got"),
    ],
    ids=["no such value", "no such variable", "wrong type"],
)
def test_a_wrong_reference_is_one_clear_error(cli, tmp_path, option, hint):
    done = cli(*FIT, option)
    assert done.code == 1
    assert hint in done.err
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_local_yaml_is_read_by_itself_and_any_other_file_wins(config, cli, tmp_path):
    (tmp_path / "local.yaml").write_text("trainer: {max_epochs: 3, default_root_dir: elsewhere}\n")
    both = config("--data.passes=2")
    assert (both["trainer"]["max_epochs"], both["trainer"]["default_root_dir"]) == (8, "elsewhere")
    assert cli(*FIT, "--trainer.max_epochs=1").code == 0
    # It names no experiment, and is no obstacle to what a checkpoint carries.
    assert cli("test", "--ckpt_path=elsewhere/xor/version_0").code == 0


def test_local_yaml_is_checked_like_any_file(cli, tmp_path):
    (tmp_path / "local.yaml").write_text("trainer: {max_epoch: 3}\n")
    done = cli(*FIT)
    assert done.code == 1
    assert "Did you mean trainer.max_epochs?" in done.err


def test_the_env_file_gives_variables_that_are_not_set_yet(tmp_path, monkeypatch):
    for name in ("A_B", "C", "D", "E"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("E", "outside")
    (tmp_path / ".env").write_text("# paths\n\nA_B=/data sets/x\nexport C='q # r'\nD = \"=\"\nE=file\n")
    read_env_file(tmp_path / ".env")
    import os

    assert [os.environ[name] for name in ("A_B", "C", "D", "E")] == ["/data sets/x", "q # r", "=", "outside"]


def test_the_env_file_reaches_the_config_and_a_wrong_line_is_named_but_not_shown(config, cli, tmp_path, monkeypatch):
    monkeypatch.setenv("PASSES", "")
    monkeypatch.delenv("PASSES")
    (tmp_path / ".env").write_text("PASSES=6\n")
    assert config("--data.passes=${oc.env:PASSES,3}")["data"]["init_args"]["passes"] == 6
    (tmp_path / ".env").write_text("secret\n")
    done = cli(*FIT)
    assert done.code != 0
    assert ".env, line 1: expected NAME=value" in done.err
    assert "secret" not in done.err


def test_the_help_is_short_and_names_each_verb(cli):
    out = cli("--help").out
    assert all(f"    {verb} " in out for verb in ("fit", "validate", "test", "predict"))
    assert len(out.splitlines()) < 40
    out = cli("fit", "--help").out
    assert out.startswith("usage: python -m src fit [options]\n")
    out = cli("fit", "--model.help", "src.module.LitModule").out
    assert "known subclasses" not in out
    assert "--model.net.help" in out
    assert len(out.splitlines()) < 70


@pytest.mark.parametrize("name", ["bad.yaml", "local.yaml"])
def test_a_file_that_is_no_yaml_is_named_with_the_line(cli, tmp_path, name):
    (tmp_path / name).write_text("trainer:\n\tmax_epochs: 3\n")
    done = cli("fit", "--config", SMALL, *(["--config", name] if name == "bad.yaml" else []))
    assert done.code == 1
    assert done.err.startswith(f"error: {name}, line 2: this is no YAML: ")
    assert "Traceback" not in done.err


def test_a_checkpoint_named_in_a_file_is_not_silently_left_out(cli, tmp_path):
    (tmp_path / "more.yaml").write_text("ckpt_path: runs/xor/version_0\n")
    done = cli("test", "--config", SMALL, "--config", "more.yaml")
    assert done.code == 1
    assert "Give it on the command line: --ckpt_path" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("text", ["", "# trainer:\n#   max_epochs: 1\n"])
def test_a_local_file_of_comments_or_nothing_does_no_harm(cli, tmp_path, text):
    (tmp_path / "local.yaml").write_text(text)
    done = cli("fit", "--config", SMALL, "--trainer.fast_dev_run=true")
    assert done.code == 0, done.err


def test_an_empty_config_is_told(cli, tmp_path):
    (tmp_path / "empty.yaml").touch()
    done = cli("fit", "--config", "empty.yaml")
    assert done.code == 1
    assert done.err == "error: empty.yaml: the file holds no options.\n"


def test_a_file_that_holds_a_list_is_told_by_its_name(cli, tmp_path):
    (tmp_path / "list.yaml").write_text("- trainer\n- model\n")
    done = cli("fit", "--config", SMALL, "--config", "list.yaml")
    assert done.code == 1
    assert done.err == "error: list.yaml: expected options by their names (`trainer:`), got a list.\n"


def test_a_file_in_another_encoding_is_told_by_its_name(cli, tmp_path):
    (tmp_path / "old.yaml").write_bytes("experiment: für\n".encode("latin-1"))
    done = cli("fit", "--config", SMALL, "--config", "old.yaml")
    assert done.code == 1
    assert done.err.startswith("error: old.yaml: this is no UTF-8 text")
