"""A person's own images, brought into the form of MNIST."""

from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from src.engine.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg")


def find_images(path: Path | None) -> list[Path]:
    """The image file `path`, or those in the folder `path`, sorted by name.

    Raises:
        UserError: If there is none.
    """
    if path is None:
        raise UserError("predict needs images: set --data.predict_path to an image file or a folder of them.")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.is_file() and file.suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(f"predict_path={path} is no image file and no folder of them ({', '.join(SUFFIXES)}).")
    return files


def read_image(path: Path) -> Tensor:
    """Bring an image into MNIST's form: light on dark, the digit scaled into 20 x 20, its centre of mass in the middle.

    Args:
        path: PNG or JPEG; any size; colour, grey or transparent; dark on light or light on dark.

    Returns:
        (28, 28) uint8.

    Raises:
        UserError: If the file is no image that can be read.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off at 255
                image = image.convert("I").point(lambda value: value / 257).convert("L")
            colour = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}). Save it as PNG or JPEG.") from error
    paper = Image.new("RGBA", colour.size, "white")  # what lies under a transparent pixel
    grey = ImageOps.autocontrast(Image.alpha_composite(paper, colour).convert("L"))
    pixels = pil_to_tensor(grey)[0]
    if torch.cat([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).median() > 127:
        grey = ImageOps.invert(grey)
    grey = grey.point(lambda value: value * (value > 48))  # the noise of paper and of JPEG is no ink
    ink = grey.getbbox()
    digit = ImageOps.contain(grey.crop(ink), (20, 20))
    weights = pil_to_tensor(digit)[0].float()
    mass = weights.sum().clamp(min=1)
    x = round(13.5 - ((weights.sum(dim=0) * torch.arange(digit.width)).sum() / mass).item())
    y = round(13.5 - ((weights.sum(dim=1) * torch.arange(digit.height)).sum() / mass).item())
    canvas = Image.new("L", (28, 28))
    canvas.paste(digit, (min(max(x, 0), 28 - digit.width), min(max(y, 0), 28 - digit.height)))
    form: Tensor = pil_to_tensor(canvas)[0]
    return form
