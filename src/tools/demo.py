"""Opens a page on which a trained net answers: `python -m src demo --ckpt_path runs/mnist/version_0`.

Images are drawn or uploaded, where the data module has a `predict_path`; rows of numbers have a field per column. The
page is for this machine alone and asks no other one. `make use` installs the packages. It is a small server, too:

    from gradio_client import Client, handle_file

    print(Client("http://127.0.0.1:7860").predict(handle_file("digit.png"), api_name="/predict"))

    api=http://127.0.0.1:7860/gradio_api
    curl -F files=@digit.png $api/upload  # prints ["PATH"]
    curl --json '{"data": [{"path": "PATH", "meta": {"_type": "gradio.FileData"}}, null]}' $api/run/predict
"""

import os
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torchvision.utils import save_image

from src.tools.common import Parser, needs, refuse
from src.tools.common.trained import Trained, named

# Gradio waits for a click on the brush.
TAKE_BRUSH = """async () => { const brush = () => document.querySelector("[aria-label=Brush]");
    while (!brush()) await new Promise(requestAnimationFrame);
    brush().click(); }"""


def answer(trained: Trained, outputs: Any) -> Any:
    """Return the first row's class probabilities by name, or its values as text; of a dict or tuple the first."""
    values = next(iter(named(outputs).values()))[0].flatten().tolist()
    if len(values) == 1 or min(values) < 0 or abs(sum(values) - 1) > 1e-3:
        return ", ".join(f"{value:.4g}" for value in values)
    names = getattr(trained.datamodule, "class_names", None) or map(str, range(len(values)))
    return dict(zip(names, values, strict=True))


def image_page(gr: Any, trained: Trained) -> tuple[Any, ...]:
    """Build function, fields and outputs of a page for images, which the data module reads as for `predict`."""
    trained.transform = None  # the data module's loader applies it
    lock = threading.Lock()  # the page has a queue, curl has none

    def look(upload: str | None, drawn: Any = None) -> tuple[Any, Path | None]:
        path = upload or (drawn and drawn["composite"])
        if path is None:
            return None, None
        with lock:
            trained.datamodule.predict_path = Path(path)
            trained.datamodule.setup("predict")
            trained.batch = next(iter(trained.datamodule.predict_dataloader()))
            said = answer(trained, trained({}))
            x = next(iter(named(trained.batch).values()))[0].float().contiguous()
        if x.min() == x.max():  # blank
            return None, None
        seen = Path(path).with_name("seen.png")  # of a picture Gradio would write the file again while it is sent
        save_image(torch.kron(x, torch.ones(2 * [max(1, 280 // x.shape[-1])])), seen, normalize=True)
        return said, seen

    brush = gr.Brush(default_size=10, colors=["#000000"], color_mode="fixed")
    size: Any = {"canvas_size": (280, 280), "fixed_canvas": True, "layers": False}
    canvas = gr.Sketchpad(type="filepath", format="png", brush=brush, label="Draw", **size)
    upload = gr.File(file_types=["image"], height=140, label="Upload (in place of the drawing)")
    seen = gr.Image(label="What the net saw", height=280, buttons=["fullscreen"])  # share would ask another host
    return look, [upload, canvas], [gr.Label(label="Answer"), seen]


def row_page(gr: Any, trained: Trained) -> tuple[Any, ...]:
    """Build function, fields and outputs of a page for rows: a switch for a column of 0 and 1, else a number."""
    name, x = next(iter(named(trained.batch).items()))
    if x.dim() != 2:
        refuse("demo shows rows of numbers (B, D), or images of a data module with a predict_path.")

    def surface(*point: float) -> Figure:
        axis = torch.linspace(float(x.min()) - 0.2, float(x.max()) + 0.2, 60, dtype=x.dtype)
        outputs = trained({name: torch.cartesian_prod(axis, axis)})
        heights = next(iter(named(outputs).values())).reshape(60, 60, -1)[..., 0].T
        figure = Figure(figsize=(4, 4), layout="constrained")
        axes = figure.add_subplot(xlabel="x0", ylabel="x1")
        figure.colorbar(axes.contourf(axis, axis, heights, levels=20, cmap="RdBu_r"), shrink=0.8)
        axes.plot(*point, "o", color="black", markersize=10)
        return figure

    def look(*values: Any) -> tuple[Any, Figure | None]:
        if None in values:  # a field is being filled in
            return None, None
        row = torch.tensor([values], dtype=x.dtype)
        if not row.isfinite().all():
            raise gr.Error("Each field takes a finite number.", print_exception=False)
        return answer(trained, trained({name: row})), surface(*values) if len(values) == 2 else None

    kinds = [gr.Checkbox if column.unique().tolist() == [0, 1] else partial(gr.Number, 0) for column in x.T]
    fields = [kind(label=f"x{k}") for k, kind in enumerate(kinds)]
    return look, fields, [gr.Label(label="Answer"), gr.Plot(label="First score", visible=len(fields) == 2)]


def main(args: list[str]) -> None:
    """Serve the page until Ctrl-C or SIGTERM."""
    parser = Parser("python -m src demo", description=__doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="a run's folder (its best), or a checkpoint")
    parser.add_argument("--port", type=int, default=7860)
    options, others = parser.parse_known_args(args)
    needs(["gradio"], "make use")
    os.environ["no_proxy"] = "127.0.0.1"  # Gradio asks its own page whether it is there
    import gradio as gr

    trained = Trained(options.ckpt_path, others)
    draws = hasattr(trained.datamodule, "predict_path")
    parts = (image_page if draws else row_page)(gr, trained)
    form: Any = {"live": True, "clear_btn": None, "flagging_mode": "never", "analytics_enabled": False}
    with gr.Interface(*parts, api_name="predict", **form) as page:
        page.load(*parts)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C, at which Gradio closes the page
    theme = gr.themes.Default(font="sans-serif", font_mono="monospace")  # its own fonts come from another host
    own: Any = {"server_name": "127.0.0.1", "server_port": options.port, "prevent_thread_lock": True}
    try:
        page.launch(**own, theme=theme, js=TAKE_BRUSH * draws, show_error=True, footer_links=[], quiet=True)
    except (OSError, OverflowError) as error:
        refuse(f"--port {options.port}: {error}")
    print(f"page  http://127.0.0.1:{options.port}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
