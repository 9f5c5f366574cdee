"""Options of the optimizer for some parameters, by their names."""

import pytest
import torch
import yaml
from torch import nn

from src.engine.errors import UserError
from src.engine.module.param_groups import build_optimizer, build_scheduler, param_groups
from tests import stopping


class Net(nn.Module):
    """Two layers, a norm and a head."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 2)


NAMES = [name for name, _ in Net().named_parameters()]
NO_DECAY = {"names": ["*.bias", "*norm*"], "weight_decay": 0.0}
HEAD = {"names": ["head.*"], "lr": 0.5}
DEEP = {"names": ["layers.0.*"], "lr_scale": 0.1}


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.3)


def names(groups, net):
    by_id = {id(parameter): name for name, parameter in net.named_parameters()}
    return [[by_id[id(parameter)] for parameter in group["params"]] for group in groups]


def test_a_parameter_gets_the_options_of_all_groups_that_match_it_and_the_later_one_wins():
    net = Net()
    made = param_groups(net, [NO_DECAY, DEEP, HEAD])
    assert names(made, net) == [
        ["layers.1.weight"],
        ["layers.1.bias", "norm.weight", "norm.bias"],
        ["layers.0.bias"],
        ["head.bias"],
        ["layers.0.weight"],
        ["head.weight"],
    ]
    options = [{key: value for key, value in group.items() if key != "params"} for group in made]
    none, slow, fast = {"weight_decay": 0.0}, {"lr_scale": 0.1}, {"lr": 0.5}
    assert options == [{}, none, none | slow, none | fast, slow, fast]
    assert "names" in NO_DECAY  # what the config says stays as it is
    # Of two rates the later one counts, in whichever form.
    whole = {"names": ["*"], "lr": 0.2, "weight_decay": 0.1}
    rates = [(group["lr"], group["weight_decay"]) for group in build_optimizer(adam, net, [whole, DEEP]).param_groups]
    assert rates == [(0.2, 0.1), (pytest.approx(0.001), 0.1)]


def test_a_tied_weight_is_matched_by_each_of_its_names():
    net = Net()
    net.head.weight = net.layers[1].weight = nn.Parameter(torch.zeros(4, 4))
    (_, head) = param_groups(net, [{"names": ["head.*"], "lr": 0.5}])
    assert [each.shape for each in head["params"]] == [(4, 4), (2,)]


def test_where_patterns_match_all_there_is_no_rest():
    net = Net()
    assert names(param_groups(net, [HEAD, {"names": ["*"]}]), net)[0] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("groups", [None, []])
def test_without_groups_the_optimizer_is_given_the_parameters_as_ever(groups):
    net, given = Net(), []
    build_optimizer(lambda parameters: given.extend(parameters) or adam(given), net, groups)
    assert [id(parameter) for parameter in given] == [id(parameter) for parameter in net.parameters()]
    assert names(param_groups(net, []), net) == [NAMES]


def test_each_group_has_its_own_figures_and_the_others_the_optimizers():
    optimizer = build_optimizer(adam, Net(), [NO_DECAY, {"names": ["head.weight"], "lr": 0.5}])
    figures = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    assert figures == [(0.01, 0.3), (0.01, 0.0), (0.5, 0.3)]


def test_a_scheduler_goes_from_each_groups_own_rate():
    optimizer = build_optimizer(adam, Net(), [HEAD, DEEP])
    scheduler = build_scheduler(lambda made: torch.optim.lr_scheduler.StepLR(made, 1, gamma=0.5), optimizer)
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.005, 0.25, 0.0005])


def one_cycle(optimizer, rate):
    return build_scheduler(lambda made: torch.optim.lr_scheduler.OneCycleLR(made, rate, total_steps=9), optimizer)


def test_a_scheduler_that_makes_all_rates_the_same_is_refused():
    with pytest.raises(UserError, match=r"OneCycleLR gives all groups .* for each of the 3 groups"):
        one_cycle(build_optimizer(adam, Net(), [HEAD, DEEP]), 0.1)


def test_a_scheduler_with_a_rate_for_each_group_or_for_a_single_one_is_not():
    optimizer = build_optimizer(adam, Net(), [HEAD, DEEP])
    one_cycle(optimizer, [0.1, 0.2, 0.3])
    assert [group["max_lr"] for group in optimizer.param_groups] == [0.1, 0.2, 0.3]
    one_cycle(build_optimizer(adam, Net(), [NO_DECAY]), 0.1)
    silent = build_optimizer(adam, Net(), [HEAD])
    build_scheduler(lambda made: torch.optim.lr_scheduler.LambdaLR(made, lambda step: step / 10), silent)


def test_a_frozen_parameter_is_a_member_like_others_and_stays_as_it_is():
    net = Net()
    net.head.requires_grad_(False)
    before = net.head.weight.clone()
    optimizer = build_optimizer(adam, net, [HEAD, DEEP])
    net.layers(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(net.head.weight, before)


WRONG = {
    "a name that is not there": ({"names": ["haed.*"]}, r"\[1\]: no parameter is called haed.\*; near are head\."),
    "a part of a name": ({"names": ["head"]}, "no parameter is called head; near are head"),
    "no names": ({"lr": 0.1}, r"\[1\] needs a list `names`"),
    "one name": ({"names": "*.bias"}, r"\[1\] needs a list `names`"),
    "nothing left": (
        {"names": ["*"], "weight_decay": 0.1},
        r"\[0\]: later groups replace weight_decay for all parameters of \*.bias, \*norm\*.*put the narrower one last",
    ),
    "two rates": ({"names": ["head.*"], "lr": 1, "lr_scale": 2}, r"\[1\] has both lr and lr_scale"),
    "a mistyped option": ({"names": ["head.*"], "weigth_decay": 0}, "AdamW has no option weigth_decay. Did you mean w"),
    "a foreign option": ({"names": ["head.*"], "size": 0}, "AdamW has no option size. There are lr, betas, eps"),
    "no number": ({"names": ["head.*"], "lr": "fast"}, "lr must be a number; got 'fast'"),
    "no scale": ({"names": ["head.*"], "lr_scale": "half"}, "lr_scale must be a number; got 'half'"),
}


@pytest.mark.parametrize(("group", "hint"), WRONG.values(), ids=WRONG.keys())
def test_a_mistake_is_one_clear_error(group, hint):
    with pytest.raises(UserError, match=hint):
        build_optimizer(adam, Net(), [NO_DECAY, group])


class Own(torch.optim.SGD):
    """Reads an option of its own, as optimizers outside torch do."""


def test_an_optimizer_of_ones_own_may_read_what_it_likes():
    optimizer = build_optimizer(lambda groups: Own(groups, lr=0.1), Net(), [{"names": ["head.*"], "orthogonal": True}])
    assert optimizer.param_groups[1]["orthogonal"]


GROUPS = [
    {"names": ["net.0.*"], "lr": 0},
    {"names": ["*.bias"], "lr_scale": 0.1, "betas": [0.5, 0.9], "amsgrad": True, "fused": None},
]


def experiment(tmp_path, groups):
    made = stopping.config(scheduler=("torch.optim.lr_scheduler.StepLR", {"step_size": 1, "gamma": 0.5}))
    made["model"]["groups"] = groups
    (tmp_path / "sums.yaml").write_text(yaml.safe_dump(made))
    return ("fit", "--config", "sums.yaml")


def saved(number=0):
    return torch.load(f"runs/sums/version_{number}/checkpoints/last.ckpt", weights_only=True)


def test_groups_in_yaml_and_on_the_command_line_train_each_at_its_rate(cli, tmp_path):
    for more in ([], ["--trainer.max_epochs=1"], ["--model.groups", '[{names: ["net.0.*"], lr: 1e-3}]']):
        done = cli(*experiment(tmp_path, GROUPS), *more)
        assert done.code == 0, done.err
    long, short, other = (saved(number) for number in range(3))
    assert torch.equal(long["state_dict"]["net.0.weight"], short["state_dict"]["net.0.weight"])
    assert not torch.equal(long["state_dict"]["net.2.bias"], short["state_dict"]["net.2.bias"])
    first = stopping.rows(tmp_path / "runs/sums/version_0")[0]
    assert float(first["lr/1"]) == 0
    assert float(first["lr/2"]) == pytest.approx(0.1 * float(first["lr"]))
    assert other["optimizer_states"][0]["param_groups"][1]["initial_lr"] == 0.001


def test_a_resumed_run_with_groups_ends_with_the_bits_of_one_never_stopped(cli, tmp_path):
    assert cli(*experiment(tmp_path, GROUPS)).code == 0
    assert cli(*experiment(tmp_path, GROUPS), "--trainer.max_epochs=2").code == 0
    assert cli("fit", "--ckpt_path", "runs/sums/version_1", "--trainer.max_epochs=3").code == 0
    assert stopping.run_differences(*(tmp_path / f"runs/sums/version_{number}" for number in range(2))) == []
    done = cli("test", "--ckpt_path", "runs/sums/version_0")
    assert done.code == 0, done.err


def test_no_groups_change_nothing(cli, tmp_path):
    assert cli(*experiment(tmp_path, None)).code == 0
    assert cli(*experiment(tmp_path, [{"names": ["*"]}])).code == 0
    assert stopping.differences(saved(0)["state_dict"], saved(1)["state_dict"]) == []


def test_a_mistake_in_yaml_is_one_line(cli, tmp_path):
    done = cli(*experiment(tmp_path, [{"names": ["head.*"], "lr": 0.1}]))
    assert done.code == 1
    (line,) = [line for line in done.err.splitlines() if "Seed set" not in line]
    assert "model.groups[0]: no parameter is called head.*; near are net." in line


def test_on_a_resume_an_option_acts_in_the_groups_that_do_not_set_it(cli, tmp_path):
    groups = [{"names": ["*.bias"], "weight_decay": 0.0}, {"names": ["net.0.*"], "lr_scale": 0.1}]
    assert cli(*experiment(tmp_path, groups), "--trainer.max_epochs=1").code == 0
    more = ("--trainer.max_epochs=2", "--model.optimizer.weight_decay=0.2")
    done = cli("fit", "--ckpt_path", "runs/sums/version_0", *more)
    assert done.code == 0, done.err
    figures = [group["weight_decay"] for group in saved()["optimizer_states"][0]["param_groups"]]
    assert figures == [0.2, 0.0, 0.0, 0.2]  # none, the first, both, the second
