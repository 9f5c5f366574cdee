"""A person's own images, brought into the form of MNIST."""

import sys
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from src.engine.errors import UserError
from src.engine.processes import is_rank_zero

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
LARGEST = 400_000_000  # pixels: an A3 sheet at 1,200 dpi has 280 million, more is taken for an attack on the memory
WORKED_ON = 2_000  # pixels of the longer side: a digit needs no more


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


def read_images(files: list[Path]) -> tuple[list[Path], Tensor, list[str]]:
    """Bring images into MNIST's form; a broken one does not hold up the others.

    Args:
        files: As `find_images` gives them.

    Returns:
        The files that could be read, their images (N, 28, 28) uint8, and what is to be told of the files.

    Raises:
        UserError: If none can be read.
    """
    read, images, told = [], [], []
    for file in files:
        try:
            image = read_image(file)
        except UserError as error:
            told.append(f"left out: {error}")
            continue
        if not image.any():
            told.append(f"blank: {file} shows nothing, its digit means nothing")
        read.append(file)
        images.append(image)
    if not images:
        raise UserError(told[0].removeprefix("left out: ") + (f" Nor can {len(files) - 1} more." if told[1:] else ""))
    return read, torch.stack(images), told


def tell(lines: list[str]) -> None:
    """Print what is to be told of the files, below the predictions."""
    for line in lines if is_rank_zero() else []:
        print(line, file=sys.stderr, flush=True)


def read_image(path: Path) -> Tensor:
    """Bring an image into MNIST's form: light on dark, the digit scaled into 20 x 20, its centre of mass in the middle.

    Args:
        path: Of a kind in `SUFFIXES`; any size; colour, grey or transparent; dark on light or light on dark. Of several
            pages the first.

    Returns:
        (28, 28) uint8.

    Raises:
        UserError: If the file is no image that can be read.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LARGEST // 2  # Pillow refuses twice as many
    try:
        with Image.open(path) as file:
            file.draft(None, (WORKED_ON, WORKED_ON))  # of a large JPEG not all has to be unpacked
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bits a pixel, which `convert` would cut off at 255
                image = image.convert("I").point(lambda value: value / 257).convert("L")
            if max(image.size) > WORKED_ON:
                plain = image.convert({"1": "L", "P": "RGBA"}.get(image.mode, image.mode))
                image = plain.reduce(-(-max(image.size) // WORKED_ON))
            colour = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} cannot be read as an image ({error}). Save it as PNG or JPEG.") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before
    grey = ImageOps.autocontrast(Image.alpha_composite(_paper(colour), colour).convert("L"))
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


def _paper(image: Image.Image) -> Image.Image:
    """What lies under transparent pixels: white, or black under light ink, which white would hide."""
    grey, alpha = pil_to_tensor(image.convert("L"))[0].float(), pil_to_tensor(image.getchannel("A"))[0].float()
    light = bool(alpha.min() < 128 and (grey * alpha).sum() > 127 * alpha.sum())
    return Image.new("RGBA", image.size, "black" if light else "white")
