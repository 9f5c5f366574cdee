"""Exports a trained net and proves the file: `python -m src export --ckpt_path runs/mnist/version_0 --format onnx`.

The file does what `predict` does: the data's tensor transform (MNIST: from uint8), the net, the scores. `--raw` holds
the net alone. Any batch size goes in. `safetensors` holds the net's weights, under its own names. `make use` installs
the packages. An ONNX file needs nothing of this project, only onnxruntime:

    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("runs/mnist/version_0/export/model.onnx")
    (scores,) = session.run(None, {"x": np.zeros((3, 28, 28), dtype=np.uint8)})
    print(scores.argmax(axis=1))
"""

import copy
import hashlib
import inspect
import tempfile
import traceback
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from src.tools.common import Parser, needs, refuse, write
from src.tools.common.trained import Predictor, load_trained, named

PACKAGES = {"pt2": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "safetensors": ["safetensors"]}
SIZES = (1, 7, 512)
TOLERANCE = 1e-4  # of values up to 1; of larger ones this share


class ByName(nn.Module):
    """Takes the tensors of a batch as one dict: torch's exporter fails where several go by keyword."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, fields: dict[str, Tensor]) -> Any:
        return self.model(**fields)


def inputs_of(net: nn.Module, trained: Predictor) -> dict[str, Tensor]:
    """Return what `predict_step` hands to the net for the first batch, by the names of the net's own arguments."""
    calls: list[Any] = []
    with net.register_forward_pre_hook(lambda _, *given: calls.append(given), with_kwargs=True):
        trained()
    if not calls:
        refuse(f"predict_step does not call {type(net).__name__}: its inputs are unknown. Leave out --raw.")
    args, kwargs = calls[0]
    return dict(inspect.signature(net.forward).bind(*args, **kwargs).arguments)


def outputs_of(value: Any) -> dict[str, Tensor]:
    """Return the tensors of an output by name; refuse an output that holds anything else."""
    tensors = named(value, "output")
    if len(tensors) < (len(value) if isinstance(value, Mapping | tuple | list) else 1):
        refuse("predict_step has to return a tensor, or a tuple or dict of tensors alone, to be exported.")
    return tensors


def rows(fields: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return `number` samples; few ones repeat."""
    return {name: value[torch.arange(number) % len(value)] for name, value in fields.items()}


def trace(model: nn.Module, fields: dict[str, Tensor]) -> tuple[torch.export.ExportedProgram, dict[str, Tensor]]:
    """Export a model for any batch size; return the program and the fields that it uses: no target, no row numbers."""
    inputs = rows(fields, 7)
    shapes = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for value in inputs.values():
        shapes[value] = {0: torch.export.Dim("batch")}
    program = torch.export.export(ByName(model), (inputs,), dynamic_shapes=shapes)
    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    given = zip(fields, program.graph_signature.user_inputs, strict=True)
    kept = {name: fields[name] for name, place in given if place in used}
    if not kept:
        raise ValueError("predict_step uses no tensor of the batch.")
    return (program, fields) if len(kept) == len(fields) else trace(model, kept)


def save(path: Path, model: nn.Module, fields: dict[str, Tensor]) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """Write the file; return what computes with it, read back, and the fields that it takes."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        # Copies: the format refuses weights that share memory.
        save_file({name: value.clone() for name, value in model.state_dict().items()}, path)
        again = copy.deepcopy(model)
        for value in again.state_dict().values():
            value.zero_()
        again.load_state_dict(load_file(path))
        return ByName(again), fields
    program, fields = trace(model, fields)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return torch.export.load(path).module(), fields
    from onnxruntime import InferenceSession

    names = list(outputs_of(model(**fields)))
    torch.onnx.export(program, f=path, input_names=list(fields), output_names=names, external_data=False, verbose=False)
    session = InferenceSession(path)

    def run(inputs: dict[str, Tensor]) -> list[Tensor]:
        return [torch.from_numpy(value) for value in session.run(None, {k: x.numpy() for k, x in inputs.items()})]

    return run, fields


def difference(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Return the largest difference of two outputs, of values above 1 as a share; infinite where one of them is NaN."""
    gaps = [0.0]
    for mine, other in zip(expected.values(), found.values(), strict=True):
        if mine.shape != other.shape:
            return float("inf")
        a, b = mine.double(), other.double()
        gap = ((a - b).abs() / a.abs().clamp(min=1)).where(a != b, 0)
        gaps.append(float(gap.nan_to_num(nan=torch.inf).max()))
    return max(gaps)


def describe(fields: dict[str, Tensor]) -> dict[str, str]:
    """Describe tensors by name: "uint8 (batch, 28, 28)"."""
    shapes = {name: ", ".join(["batch", *map(str, value.shape[1:])]) for name, value in fields.items()}
    return {name: f"{str(fields[name].dtype).removeprefix('torch.')} ({shape})" for name, shape in shapes.items()}


def main(args: list[str]) -> None:
    """Export, compare with the net on real batches, and keep the file only if both agree."""
    parser = Parser(prog="python -m src export", description=__doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="a run's folder (its best), or a checkpoint")
    parser.add_argument("--format", choices=list(PACKAGES), default="onnx")
    parser.add_argument("--raw", action="store_true", help="the net alone: no transform before it, no scores after it")
    options, others = parser.parse_known_args(args)
    needs(PACKAGES[options.format], "make use")
    trained = load_trained(options.ckpt_path, others)
    net: nn.Module = getattr(trained.module, "net", trained.module)
    is_raw = options.raw or options.format == "safetensors"
    model = net if is_raw else trained
    fields = inputs_of(net, trained) if is_raw else named(trained.batch)
    place = trained.path.absolute().parent
    folder = (place.parent if place.name == "checkpoints" else place) / "export"
    folder.mkdir(exist_ok=True)
    largest = 0.0
    with tempfile.TemporaryDirectory(dir=folder) as part, torch.compiler.set_stance("force_eager"):
        file = Path(part, f"{'net' if is_raw else 'model'}.{options.format}")
        try:
            run, fields = save(file, model, fields)
            for size in SIZES:
                batch = rows(fields, size)
                expected = outputs_of(model(**batch))
                largest = max(largest, difference(expected, outputs_of(run(batch))))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__)
            own = [frame for frame in frames if "site-packages" not in frame.filename][-1]
            reason = " ".join(str(error).split())[:300]
            refuse(f"{type(net).__name__} cannot be exported ({own.filename}:{own.lineno}): {reason}")
        if largest > TOLERANCE:
            refuse(f"The file differs from the net by {largest:.1e}; the limit is {TOLERANCE}. It is not kept.")
        file.replace(folder / file.name)
    facts = {
        "checkpoint": str(trained.path),
        "sha256": hashlib.sha256(trained.path.read_bytes()).hexdigest(),
        "inputs": describe(fields),
        "outputs": describe(expected),
        "largest_difference": largest,
        "batch_sizes": list(SIZES),
        "versions": {name: version(name) for name in ["torch", *PACKAGES[options.format]]},
    }
    described = folder / "export.yaml"
    known = yaml.safe_load(described.read_text(encoding="utf-8")) if described.exists() else None
    write(described, yaml.safe_dump({**(known or {}), file.name: facts}, sort_keys=False))
    for word, tensors in (("takes", fields), ("gives", expected)):
        print(f"{word}  ", ", ".join(f"{name} {text}" for name, text in describe(tensors).items()))
    if not isinstance(trained.batch, Tensor) and len(named(trained.batch)) < len(trained.batch):
        print("note   parts of a batch that are no tensors are fixed as in the first batch")
    print(f"proof  largest difference {largest:.1e} on batches of {', '.join(map(str, SIZES))}")
    print(f"file   {folder / file.name}")
