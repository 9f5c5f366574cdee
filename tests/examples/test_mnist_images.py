"""A person's own images become those of MNIST, however they look."""

import pytest
import torch
from PIL import Image, ImageDraw
from torch.nn.functional import cosine_similarity

from src.data.mnist_images import read_image, read_images
from src.engine.errors import UserError


@pytest.fixture
def seven():
    """A seven as a person might send it: large, dark on light."""
    drawn = Image.new("L", (280, 280), 255)
    ImageDraw.Draw(drawn).line([(80, 70), (200, 70), (120, 220)], fill=0, width=24)
    return drawn


def variants(image: Image.Image) -> dict[str, Image.Image]:
    dark = Image.eval(image, lambda value: 255 - value)
    transparent = Image.new("RGBA", image.size, (0, 0, 0, 0))
    transparent.putalpha(dark)
    off_centre = Image.new("L", (640, 480), 255)
    off_centre.paste(image, (350, 20))
    paper = Image.merge("RGB", [Image.eval(image, lambda v, a=a: a + v * (230 - a) // 255) for a in (20, 40, 120)])
    deep = Image.new("I;16", image.size)
    deep.putdata([257 * value for value in image.tobytes()])
    return {
        "dark_on_light.png": image,
        "light_on_dark.webp": dark,
        "colour.png": Image.merge("RGB", (image, image, Image.new("L", image.size, 255))),
        "faint_on_paper.jpg": paper,
        "transparent.png": transparent,
        "off_centre.jpeg": off_centre,
        "tiny.gif": image.resize((28, 28)),
        "palette.png": image.convert("P"),
        "sixteen_bits.png": deep,
        "scan.tif": image.resize((5_000, 5_000), Image.Resampling.NEAREST).convert("1"),
    }


def test_any_form_becomes_mnists(seven, tmp_path):
    forms = {}
    for name, image in variants(seven).items():
        image.save(tmp_path / name)
        forms[name] = read_image(tmp_path / name).float()
    first = forms["dark_on_light.png"]
    ink = (first > 0).nonzero()
    assert (ink.max(dim=0).values - ink.min(dim=0).values).max() + 1 <= 20
    centre = (first.sum(dim=1) * torch.arange(28)).sum() / first.sum()
    assert float(centre) == pytest.approx(13.5, abs=1)
    for name, form in forms.items():
        assert form.shape == (28, 28)
        # The centre of mass is rounded to a pixel: a shift by one is the same image.
        shifts = [torch.roll(form, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        assert max(cosine_similarity(first.flatten(), each.flatten(), dim=0) for each in shifts) > 0.93, name


def test_each_file_that_cannot_be_read_costs_a_line(seven, tmp_path, capsys, monkeypatch):
    for name in ("a.png", "harmed.png"):
        seven.save(tmp_path / name)
    whole = (tmp_path / "harmed.png").read_bytes()
    (tmp_path / "harmed.png").write_bytes(whole[:8] + b"\x00\x00\x00\x05" + whole[12:])
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "folder.png").mkdir()
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    Image.new("L", (900, 900), 255).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300_000)
    files, images = read_images(tmp_path)
    assert [file.name for file in files] == ["a.png", "blank.png"]
    assert images.shape == (2, 28, 28)
    lines = capsys.readouterr().err.splitlines()
    for name, line in zip(("b.png", "bomb.png", "folder.png", "harmed.png"), lines, strict=True):
        assert name in line


@pytest.mark.parametrize("path", ["no.png", "folder", None])
def test_without_an_image_the_option_is_named(path, tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="predict_path"):
        read_images(path and tmp_path / path)
