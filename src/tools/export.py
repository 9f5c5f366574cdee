"""Exports a trained net and proves the file: `python -m src export --ckpt_path runs/mnist/version_0 --format onnx`.

The file does what `predict` does: the data's tensor transform (MNIST: from uint8), the net, the scores. `--raw` leaves
out the first and the last. Any batch size goes in, so a net asks for `x.shape[0]`, not for `len(x)`. `safetensors`
holds the net's weights, under its own names. `make use` installs the packages. An ONNX file needs only onnxruntime:

    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession("runs/mnist/version_0/export/model.onnx")
    (scores,) = session.run(None, {"x": np.zeros((3, 28, 28), dtype=np.uint8)})
    print(scores.argmax(axis=1))
"""

import hashlib
import tempfile
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from src.module import LitModule
from src.tools.common import Parser, needs, refuse, write
from src.tools.common.trained import Trained, named

PACKAGES = {"pt2": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "safetensors": ["safetensors"]}
SIZES = (1, 7, 512)
TOLERANCE = 1e-4  # of values up to 1; of larger ones this share


def save(path: Path, model: Trained, fields: dict[str, Tensor]) -> tuple[Callable[..., Any], dict[str, Tensor]]:
    """Write a file for any batch size; return what computes with it, read back, and the fields that it takes."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        # Copies: the format refuses weights that share memory.
        save_file({name: value.clone() for name, value in model.net.state_dict().items()}, path)
        model.net.load_state_dict(load_file(path))
        return model, fields
    shapes = ({name: {0: torch.export.Dim("batch")} for name in fields},)
    program = torch.export.export(model, (fields,), dynamic_shapes=shapes)
    program.graph.eliminate_dead_code(lambda node: node.is_impure() and "assert" not in node.name)
    inputs = program.graph.find_nodes(op="placeholder")  # the size of a batch may be read off an unused one
    used = {node.name for node in inputs if any("sym_size" not in user.name for user in node.users)}
    places = zip(fields, program.graph_signature.user_inputs, strict=True)
    kept = {name: fields[name] for name, place in places if place in used}  # no target, no row numbers
    outputs = named(model(fields), "output")
    if not kept or len(outputs) < len(program.graph_signature.user_outputs):
        raise ValueError("predict_step has to use a tensor of the batch, and to return tensors, alone or in one dict.")
    if len(kept) < len(fields):
        return save(path, model, kept)
    if path.suffix == ".pt2":
        torch.export.save(program, path)
        return torch.export.load(path).module(), fields
    from onnxruntime import InferenceSession

    names: dict[str, Any] = {"input_names": list(fields)}  # ONNX takes each name once
    names["output_names"] = [f"{name}_out" if name in fields else name for name in outputs]
    torch.onnx.export(program, f=path, external_data=False, verbose=False, **names)
    session = InferenceSession(path)
    return lambda given: [*map(torch.from_numpy, session.run(None, {k: x.numpy() for k, x in given.items()}))], fields


def difference(expected: Any, found: Any) -> float:
    """Return the largest difference of two outputs, of values above 1 as a share; infinite where one of them is NaN."""
    # A stack takes tensors of one shape alone.
    pairs = [torch.stack(pair).double() for pair in zip(named(expected).values(), named(found).values(), strict=True)]
    gaps = [((a - b).abs() / a.abs().clamp(min=1)).where(a != b, 0).max() for a, b in pairs]
    return float(torch.stack(gaps).nan_to_num(nan=torch.inf).max())


def describe(fields: dict[str, Tensor]) -> dict[str, str]:
    """Describe tensors by name: "uint8 (batch, 28, 28)"."""
    return {k: f"{str(x.dtype)[6:]} ({', '.join(['batch', *map(str, x.shape[1:])])})" for k, x in fields.items()}


def main(args: list[str]) -> None:
    """Export, compare with the net on real batches, and keep the file only if both agree."""
    parser = Parser("python -m src export", description=__doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="a run's folder (its best), or a checkpoint")
    parser.add_argument("--format", choices=list(PACKAGES), default="onnx")
    parser.add_argument("--raw", action="store_true", help="no transform before the net, logits of a LitModule")
    options, others = parser.parse_known_args(args)
    needs(PACKAGES[options.format], "make use")
    raw = options.raw or options.format == "safetensors"
    model = Trained(options.ckpt_path, others)
    if raw:
        model.batch, model.prepare = model.prepare(model.batch), lambda batch: batch  # type: ignore[method-assign]
        if isinstance(model.module, LitModule):
            model.module.activation = torch.nn.Identity()
    name, place = f"{'net' if raw else 'model'}.{options.format}", model.path.absolute()
    folder = place.parents[place.parent.name == "checkpoints"] / "export"
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as hidden, torch.compiler.set_stance("force_eager"):
        file, first = Path(hidden, name), named(model.batch)
        try:  # few samples repeat
            batches = [{key: part[torch.arange(size) % len(part)] for key, part in first.items()} for size in SIZES]
            expected = [model(batch) for batch in batches]
            run, fields = save(file, model, batches[1])
            found = [run({key: batch[key] for key in fields}) for batch in batches]
            largest = max(map(difference, expected, found))
        except Exception as error:
            own = [at for at in traceback.extract_tb(error.__traceback__) if "site-packages" not in at.filename][-1]
            reason = " ".join(str(error).split())[:300]
            refuse(f"{type(model.net).__name__} cannot be exported ({own.filename}:{own.lineno}): {reason}")
        if largest > TOLERANCE:
            refuse(f"The file differs from the net by {largest:.1e}; the limit is {TOLERANCE}. It is not kept.")
        file.replace(folder / name)
    facts = {
        "checkpoint": str(model.path),
        "sha256": hashlib.sha256(model.path.read_bytes()).hexdigest(),
        "inputs": describe(fields),
        "outputs": describe(named(expected[0], "output")),
        "largest_difference": largest,
        "versions": {package: version(package) for package in ["torch", *PACKAGES[options.format]]},
    }
    described = folder / "export.yaml"
    known = yaml.safe_load(described.read_text(encoding="utf-8")) if described.exists() else {}
    write(described, yaml.safe_dump(known | {name: facts}, sort_keys=False))
    print(yaml.safe_dump({str(folder / name): facts}, sort_keys=False), end="")
