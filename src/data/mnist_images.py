"""A person's own images, brought into the form of MNIST."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, ImageStat
from scipy.ndimage import center_of_mass
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from src.engine.errors import UserError
from src.engine.processes import is_rank_zero


def read_images(path: Path | None) -> tuple[list[Path], Tensor]:
    """Return the image files at `path`, sorted by name, and their images (N, 28, 28) uint8.

    Each file that cannot be read is named in a line.

    Args:
        path: An image file, or a folder of them.

    Raises:
        UserError: If there is no image.
    """
    if path is None:
        raise UserError("predict needs images: set --data.predict_path to an image file or a folder of them.")
    images, known = dict[Path, Tensor](), Image.registered_extensions()
    for file in sorted(each for each in path.iterdir() if each.suffix.lower() in known) if path.is_dir() else [path]:
        try:
            images[file] = read_image(file)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            if is_rank_zero():
                print(f"note: {file} is left out: {error}. Save it as PNG or JPEG.", file=sys.stderr, flush=True)
    if not images:
        raise UserError(f"predict_path={path} is no image that can be read, and no folder with one: PNG, JPEG ...")
    return list(images), torch.stack(list(images.values()))


def read_image(path: Path) -> Tensor:
    """Bring an image into MNIST's form: light on dark, the digit within 20 x 20, its centre of mass in the middle.

    Args:
        path: Any size; colour, grey or transparent; dark on light or light on dark; the first of several pages.

    Returns:
        (28, 28) uint8.
    """
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off at 255
        image = image.convert("I").point(lambda value: value / 257)
    paper = Image.new("RGBA", image.size, "white")
    grey = ImageOps.autocontrast(Image.alpha_composite(paper, image.convert("RGBA")).convert("L"))
    if ImageStat.Stat(grey).median[0] > 127:
        grey = ImageOps.invert(grey)
    grey = grey.point(lambda value: value * (value > 48))  # the noise of paper and of JPEG is no ink
    digit = ImageOps.contain(grey.crop(grey.getbbox()), (20, 20))
    y, x = center_of_mass(np.asarray(digit) + 1e-9)  # of a blank image, its middle
    canvas = Image.new("L", (28, 28))
    canvas.paste(digit, (round(13.5 - x), round(13.5 - y)))
    return pil_to_tensor(canvas)[0]
