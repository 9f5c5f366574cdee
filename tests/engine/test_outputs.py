"""Whatever `predict_step` returns is taken apart into a column per name."""

from collections import OrderedDict, UserDict
from pathlib import Path

import numpy as np
import pytest
import torch

from src.engine.errors import UserError
from src.engine.loggers.predictions.outputs import Outputs, by_sample
from tests.engine.prediction_tasks import Bare, Found, Pair, boxes

X = torch.arange(4.0)


def taken(outputs, *likely):
    """As plain values."""
    columns = Outputs().columns(outputs, *(likely or (4,)))
    return {
        name: [v.tolist() if isinstance(v, torch.Tensor) else v for v in column] for name, column in columns.items()
    }


def test_a_tensor_is_the_score():
    assert taken(X) == {"score": [0, 1, 2, 3]}
    assert taken(X.numpy()) == {"score": [0, 1, 2, 3]}


def test_parts_have_the_names_of_keys_fields_and_places():
    assert list(taken({"a": X, "b": {"c": X, "d": (X, X)}})) == ["a", "b_c", "b_d_0", "b_d_1"]
    assert list(taken((X, {"a": X}))) == ["output_0", "output_1_a"]
    assert taken(Pair(X, -X)) == {"low": [0, 1, 2, 3], "high": [0, -1, -2, -3]}
    assert taken(X.view(4, 1).max(dim=1))["indices"] == [0, 0, 0, 0]
    assert list(taken(Found(X, boxes(X)))) == ["score", "boxes"]


def test_dicts_of_any_class_are_dicts():
    class ModelOutput(OrderedDict):
        """As Hugging Face's: a dict whose keys are attributes, too."""

        def __init__(self, **parts):
            super().__init__(parts)
            self.__dict__.update(parts)

    assert list(taken(ModelOutput(logits=X, hidden=(X, X)))) == ["logits", "hidden_0", "hidden_1"]
    assert list(taken(UserDict(a=X))) == ["a"]


def test_of_an_object_public_attributes_count_and_a_number_of_the_batch_stands_in_each_row():
    assert taken(Bare(X)) == {"logits": [[0, 0], [1, -1], [2, -2], [3, -3]], "loss": [0, 0, 0, 0]}


def test_lists_hold_an_entry_for_each_sample():
    assert taken(["a", "b", "c", "d"]) == {"output": ["a", "b", "c", "d"]}
    assert taken({"n": [1, 2.5, None, True]}) == {"n": [1, 2.5, None, True]}
    assert taken({"path": [Path("a")] * 4})["path"] == ["a"] * 4
    assert taken({"words": [["a"], ["b", "c"], [], ["d"]][:2] * 2})["words"][1] == "['b', 'c']"
    assert taken([[1, 2], [3], [4, 5, 6], []])["score"] == [[1, 2], [3], [4, 5, 6], []]
    assert taken(boxes(X)) == {"score": [b.tolist() for b in boxes(X)]}
    assert taken(np.array(["a", "b", "c", "d"])) == {"output": ["a", "b", "c", "d"]}


def test_a_tuple_of_uneven_tensors_holds_samples_too():
    assert taken(tuple(boxes(X))) == taken(boxes(X))


def test_nested_and_sparse_tensors_are_what_they_hold():
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    assert taken(nested, 2) == {"score": [[1, 1], [1, 1, 1]]}
    assert taken(torch.eye(4).to_sparse())["score"] == torch.eye(4).tolist()


def test_detections_are_columns_of_what_each_holds():
    found = taken([{"boxes": b, "mask": (b.sum(), [1, 2])} for b in boxes(X)])
    assert list(found) == ["boxes", "mask_0", "mask_1"]
    assert found["mask_1"] == [[1, 2]] * 4


def test_a_list_of_parts_stays_one_where_a_batch_has_as_many_samples_as_parts():
    outputs = Outputs()
    assert list(outputs.columns([X, -X], 4)) == ["output_0", "output_1"]
    assert list(outputs.columns([X[:2], -X[:2]], 2)) == ["output_0", "output_1"]
    other = Outputs()
    assert list(other.columns([X[:1], X[:3], X], 3)) == ["score"]
    assert list(other.columns([X[:2], X[:2]], 2)) == ["score"]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_and_a_tuple_mean_the_same(kind):
    scores, features = torch.rand(2, 3), torch.rand(2, 5)
    assert list(taken(kind([scores, features]), 2)) == ["output_0", "output_1"]  # as many parts as samples
    assert list(taken(kind([scores.mean(), features]), 2)) == ["output_0", "output_1"]
    assert list(taken({"a": kind([X, X.view(4, 1), X, X.long()])})) == ["a_0", "a_1", "a_2", "a_3"]
    assert list(taken(kind([{"boxes": torch.rand(2, 4)}] * 2), 2)) == ["boxes"]
    assert list(taken(kind(["a", "b"]), 2)) == ["output"]
    assert list(taken(kind([torch.rand(1, 4)]), 1)) == ["score"]
    with pytest.raises(
        UserError, match=r"could be 2 samples or 2 parts\. Return a dict of parts, or a list with a dict"
    ):
        taken(kind([scores, scores]), 2)
    after_another = Outputs()
    after_another.columns(kind([torch.rand(3, 3), torch.rand(3, 3)]), 3)
    assert list(after_another.columns(kind([scores, scores]), 2)) == ["output_0", "output_1"]


def test_a_batch_of_another_size_than_expected_is_counted():
    assert len(taken(X, 1)["score"]) == 4  # a loader whose items hold several samples
    assert len(taken(["a", "b"], None, None)["output"]) == 2


def test_columns_hold_no_gradient():
    assert not Outputs().columns(X.requires_grad_(), 4)["score"].requires_grad


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ({"a": X, "b": X[:3]}, r"returned a \(4,\) float32, b \(3,\) float32 for a batch of 4"),
        ({"a": {"b": X}, "a_b": X}, "two parts of the output have the name a_b"),
        ([{"a": 1}, {"a": 1}, {"b": 1}, {"a": 1}], "one sample has a, another b"),
        ({"a": [X[:3], None, X, X]}, "a is a tensor for one sample and NoneType for another"),
    ],
)
def test_what_fits_no_sample_is_one_clear_error(outputs, said):
    with pytest.raises(UserError, match=said):
        Outputs().columns(outputs, 4)


def test_no_samples_are_no_columns():
    assert by_sample([]) == {}
