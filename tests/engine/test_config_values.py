"""A run, its resume, its test and a notebook build the same net from the same config, whatever the values are."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
import yaml

from src.module import LitModule
from tests import stopping
from tests.stopping import Net

half = functools.partial(torch.mul, other=0.5)
third = lambda x: x / 3  # noqa: E731, what a checkpoint cannot name by itself


class Picky(Net):
    """Keeps what it was given."""

    seen: ClassVar[list[Any]] = []

    def __init__(
        self,
        any: Any = None,
        table: dict | None = None,  # type: ignore[type-arg]
        typed: dict[float, str] | None = None,
        word: Callable[..., Any] | str | None = None,
        acts: list[Callable[..., Any]] | None = None,
        kind: type[torch.nn.Module] = torch.nn.ReLU,
    ) -> None:
        super().__init__()
        self.seen.append([any, table, typed, word, acts, kind])


@pytest.fixture
def picky(tmp_path, cli):
    """Fit with arguments of the net as YAML; returns what the net was given in each of five commands."""

    def run(text: str, *options: str) -> list[Any]:
        experiment = stopping.config(max_epochs=1)
        experiment["model"]["net"] = {"class_path": f"{__name__}.Picky", "init_args": "ARGS"}
        (tmp_path / "sums.yaml").write_text(yaml.safe_dump(experiment).replace("ARGS", text))
        Picky.seen.clear()
        folder = "runs/sums/version_0"
        for command in (
            ["fit", "--config", "sums.yaml", *options],
            ["test", "--ckpt_path", folder],
            ["fit", "--ckpt_path", folder, "--trainer.max_epochs=2"],
            ["fit", "--config", f"{folder}/config.yaml"],
        ):
            done = cli(*command)
            assert done.code == 0, done.err
            assert "Unable to serialize" not in done.out + done.err
        LitModule.load_from_checkpoint(folder)
        return Picky.seen

    return run


def each_has(seen: list[Any], index: int, value: Any) -> bool:
    """Whether all five nets were given this, with keys of these types."""
    return len(seen) == 5 and all(repr(each[index]) == repr(value) for each in seen)


KEYS = [
    "{4: a, 8: {16: [{2: b}]}}",
    "{0.5: a, 1.0e-05: b}",
    "{true: a, false: b}",
    "{null: a}",
    "{'4': a, 4: b, x: null}",
]


@pytest.mark.parametrize("keys", KEYS)
def test_keys_that_are_no_texts_stay_what_they_are(picky, keys):
    seen = picky(f"{{any: {keys}, table: {keys}}}")
    assert each_has(seen, 0, yaml.safe_load(keys))
    assert each_has(seen, 1, yaml.safe_load(keys))


def test_keys_and_null_in_an_option_stay_what_they_are(picky):
    seen = picky(
        "{typed: {0.5: a}}",
        "--model.net.any=[1]",
        "--model.net.any={4: null, null: [null, 1e-3]}",
        "--model.net.table={8: 1}",
    )
    assert each_has(seen, 0, {4: None, None: [None, 0.001]})
    assert each_has(seen, 1, {8: 1})
    assert each_has(seen, 2, {0.5: "a"})


@pytest.mark.parametrize("keys", ["{[1, 2]: a}", "{: a}", "{1: a, true: b}", "{1: a, 1.0: b}"])
def test_keys_that_cannot_stay_are_one_line(cli, tmp_path, keys):
    (tmp_path / "keys.yaml").write_text(f"model: {{net: {{class_path: torch.nn.ReLU, init_args: {keys}}}}}")
    done = cli("fit", "--config", "keys.yaml")
    assert done.code == 1
    assert "keys.yaml, line 1: " in done.err
    assert len(done.err.splitlines()) == 1


def test_a_text_where_a_function_may_stand_stays_a_text(picky):
    assert each_has(picky("{word: l1, any: '${trainer.accelerator}'}"), 3, "l1")


def test_functions_without_an_import_path_keep_the_name_that_the_user_gave(picky):
    seen = picky(
        f"{{acts: [torch.relu, {__name__}.half], word: {__name__}.half, any: '${{trainer.accelerator}}'}}",
        f"--model.net.word={__name__}.third",
        "--model.net.kind=torch.nn.GELU",
    )
    assert each_has(seen, 3, third)
    assert each_has(seen, 4, [torch.relu, half])
    assert each_has(seen, 5, torch.nn.GELU)


def test_a_pruned_run_goes_on(cli, tmp_path):
    pruning = {"class_path": "ModelPruning", "init_args": {"pruning_fn": "l1_unstructured", "amount": 0.5}}
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(stopping.config(max_epochs=1, callbacks=(pruning,))))
    assert cli("fit", "--config", "sums.yaml").code == 0
    done = cli("fit", "--ckpt_path", "runs/sums/version_0", "--trainer.max_epochs=2")
    assert done.code == 0, done.err
