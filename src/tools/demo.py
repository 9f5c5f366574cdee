"""Opens a page on which a trained net answers: `python -m src demo --ckpt_path runs/mnist/version_0`.

Images are drawn or uploaded, where the data module has a `predict_path`; rows of numbers have a field per column. The
page is for this machine alone and asks no other one. `make use` installs the packages. It is a small server, too:

    from gradio_client import Client, handle_file

    print(Client("http://127.0.0.1:7860").predict(handle_file("digit.png"), api_name="/predict"))

    api=http://127.0.0.1:7860/gradio_api
    curl -F files=@digit.png $api/upload  # prints ["PATH"]
    curl --json '{"data": [{"path": "PATH", "meta": {"_type": "gradio.FileData"}}]}' $api/run/predict
"""

import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import to_pil_image
from torchvision.utils import make_grid

from src.tools.common import Parser, needs, refuse
from src.tools.common.trained import Predictor, load_trained, named

# Gradio waits for a click on the brush.
TAKE_BRUSH = """() => { const timer = setInterval(() => {
    const brush = document.querySelector("[aria-label=Brush]");
    if (brush) { brush.click(); clearInterval(timer); }
}, 100); }"""


def scores_of(outputs: Any) -> Tensor:
    """Return what `predict_step` returned as one tensor (B, C): of a dict or tuple the first."""
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    first: Tensor = outputs[0] if isinstance(outputs, list | tuple) else outputs
    return first.reshape(len(first), -1)


def answer(trained: Predictor, scores: Tensor) -> Any:
    """Return the class probabilities of the first row by name, or the values as text."""
    values = scores[0].tolist()
    if len(values) == 1 or min(values) < 0 or abs(sum(values) - 1) > 1e-3:
        return ", ".join(f"{value:.4g}" for value in values)
    names = getattr(trained.datamodule, "class_names", None) or ()
    names = names if len(set(names)) == len(values) else range(len(values))
    return {str(name): value for name, value in zip(names, values, strict=True)}


def show_images(gr: Any, page: Any, trained: Predictor) -> None:
    """Lay out a page for images, which the data module reads as for `predict`."""

    def look(path: str | None) -> tuple[Any, Path | None]:
        """Return the answer for an image file, and what the net saw; nothing for a blank image, or none."""
        if path is None:
            return None, None
        data = trained.datamodule
        data.predict_path = Path(path)
        data.setup("predict")
        own = Predictor(trained.path, trained.module, data, data.predict_dataloader())
        seen = next(iter(named(own.batch).values()))[0]
        if not seen.any():
            return None, None
        picture = to_pil_image(make_grid(seen.float(), normalize=True))
        shown = Path(path).with_name("seen.png")  # of a picture Gradio would write the file again while it is sent
        ImageOps.contain(picture, (280, 280), Image.Resampling.NEAREST).save(shown)
        return answer(own, scores_of(own())), shown

    with gr.Row():
        with gr.Column():
            with gr.Tab("Draw"):
                brush = gr.Brush(default_size=10, colors=["#000000"], color_mode="fixed")
                size: dict[str, Any] = {"canvas_size": (280, 280), "fixed_canvas": True, "layers": False}
                canvas = gr.Sketchpad(type="filepath", format="png", brush=brush, **size)
            with gr.Tab("Upload"):
                upload = gr.File(file_types=["image"], label="Upload")  # read by the data module alone
        with gr.Column():
            shown = [gr.Label(label="Answer"), gr.Image(label="What the net saw", interactive=False, height=280)]
    own: dict[str, Any] = {"concurrency_id": "data", "trigger_mode": "always_last"}  # it holds one image at a time
    canvas.change(lambda drawing: look(drawing["composite"]), canvas, shown, api_visibility="private", **own)
    upload.change(look, upload, shown, api_name="predict", **own)
    page.load(js=TAKE_BRUSH)


def show_rows(gr: Any, page: Any, trained: Predictor) -> None:
    """Lay out a page for rows of numbers: a field for each column, a switch where all values are 0 or 1."""
    x = next(iter(named(trained.batch).values()))
    if x.dim() != 2:
        refuse("demo shows rows of numbers (B, D), or images of a data module with a predict_path.")

    def scores(rows: Tensor) -> Tensor:
        return scores_of(trained(**{next(iter(named(trained.batch))): rows}))

    def look(*values: float | bool | None) -> Any:
        """Return the answer for a row; of two columns and one score also the picture of all answers."""
        if any(value is None or not np.isfinite(value) for value in values):
            raise ValueError("Each field takes a finite number.")
        row = torch.tensor([values], dtype=x.dtype)
        found = answer(trained, scores(row))
        return (found, surface(row[0])) if has_surface else found

    def surface(point: Tensor) -> Figure:
        """Draw the score over the plane of the two inputs, and the point on it."""
        ends = torch.cat([x.flatten(), point])
        axis = torch.linspace(float(ends.min()) - 0.2, float(ends.max()) + 0.2, 60, dtype=x.dtype)
        heights = scores(torch.cartesian_prod(axis, axis)).reshape(60, 60).T
        figure = Figure(figsize=(4, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="x0", ylabel="x1")
        figure.colorbar(axes.contourf(axis, axis, heights, levels=20, cmap="RdBu_r"), shrink=0.8)
        axes.plot(*point, "o", color="black", markersize=10)
        return figure

    has_surface = x.shape[1] == 2 and scores(x).shape[1] == 1
    with gr.Row():
        with gr.Column():
            fields = [
                gr.Checkbox(label=f"x{k}") if column.unique().tolist() == [0, 1] else gr.Number(0, label=f"x{k}")
                for k, column in enumerate(x.T)
            ]
        with gr.Column():
            shown = [gr.Label(label="Answer"), *([gr.Plot(label="All answers")] if has_surface else [])]
    gr.on([page.load, *(field.change for field in fields)], look, fields, shown, api_name="predict")


def main(args: list[str]) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    parser = Parser(prog="python -m src demo", description=__doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="a run's folder (its best), or a checkpoint")
    parser.add_argument("--port", type=int, default=7860)
    options, others = parser.parse_known_args(args)
    needs(["gradio"], "make use")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr

    trained = load_trained(options.ckpt_path, others)
    show = show_images if hasattr(trained.datamodule, "predict_path") else show_rows
    with gr.Blocks(title=str(options.ckpt_path)) as page:
        show(gr, page, trained)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, at which Gradio closes the page
    theme = gr.themes.Default(font="sans-serif", font_mono="monospace")  # its own fonts come from another host
    own: dict[str, Any] = {"server_name": "127.0.0.1", "server_port": options.port, "prevent_thread_lock": True}
    try:
        page.launch(**own, theme=theme, show_error=True, footer_links=[], quiet=True)
    except (OSError, OverflowError) as error:
        refuse(f"Port {options.port} cannot be opened ({error}). Choose another one: --port 7861")
    print(f"page  http://127.0.0.1:{options.port}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
