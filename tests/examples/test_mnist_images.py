"""Predictions on a person's own images, however they look."""

import csv

import pytest
import torch
from PIL import Image, ImageDraw
from torchvision.datasets import MNIST

from src.data.mnist_images import find_images, read_image, read_images
from src.engine.errors import UserError
from tests.conftest import CONFIGS


@pytest.fixture
def seven(mnist):
    """A seven as a person might send it: large, dark on light."""
    if not mnist.real:
        drawn = Image.new("L", (280, 280), 255)
        ImageDraw.Draw(drawn).line([(80, 70), (200, 70), (120, 220)], fill=0, width=24)
        return drawn
    data = MNIST(mnist.root, train=False)
    digit = data.data[data.targets.tolist().index(7)]
    return Image.fromarray(255 - digit.numpy()).resize((280, 280), Image.Resampling.BICUBIC)


def variants(image: Image.Image) -> dict[str, Image.Image]:
    dark = Image.eval(image, lambda value: 255 - value)
    transparent = Image.new("RGBA", image.size, (0, 0, 0, 0))
    transparent.putalpha(dark)
    off_centre = Image.new("L", (640, 480), 255)
    off_centre.paste(image, (350, 20))
    paper = Image.merge("RGB", [Image.eval(image, lambda v, a=a: a + v * (230 - a) // 255) for a in (20, 40, 120)])
    return {
        "dark_on_light.png": image,
        "light_on_dark.png": dark,
        "colour.png": Image.merge("RGB", (image, image, Image.new("L", image.size, 255))),
        "faint_on_paper.jpg": paper,
        "transparent.png": transparent,
        "off_centre.jpeg": off_centre,
        "tiny.png": image.resize((28, 28)),
        "palette.png": image.convert("P"),
    }


def test_every_form_becomes_the_same_image(seven, tmp_path):
    forms = {}
    for name, image in variants(seven).items():
        image.save(tmp_path / name)
        forms[name] = read_image(tmp_path / name).float()
    first = forms["dark_on_light.png"]
    for name, form in forms.items():
        assert form.shape == (28, 28)
        # The centre of mass is rounded to a pixel: a shift by one is the same image.
        shifts = [torch.roll(form, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        best = max(torch.nn.functional.cosine_similarity(first.flatten(), s.flatten(), dim=0) for s in shifts)
        assert best > 0.93, name


def test_the_form_is_that_of_mnist(seven, tmp_path):
    seven.save(tmp_path / "seven.png")
    pixels = read_image(tmp_path / "seven.png").float()
    ink = (pixels > 0).nonzero()
    assert (ink.max(dim=0).values - ink.min(dim=0).values).max() + 1 <= 20
    centre = (pixels.sum(dim=1) * torch.arange(28)).sum() / pixels.sum()
    assert abs(centre - 13.5) < 1
    assert pixels[0].max() == 0


def alike(a, b):
    return torch.nn.functional.cosine_similarity(a.float().flatten(), b.float().flatten(), dim=0) > 0.93


@pytest.mark.parametrize("suffix", ["webp", "bmp", "tif", "gif"])
def test_other_formats_are_read(seven, suffix, tmp_path):
    seven.convert("L").save(tmp_path / f"seven.{suffix}")
    seven.convert("L").save(tmp_path / "seven.png")
    assert [file.name for file in find_images(tmp_path)] == sorted([f"seven.{suffix}", "seven.png"])
    assert alike(*(read_image(file) for file in find_images(tmp_path)))


@pytest.mark.parametrize("mode", ["L", "1", "RGB"])
def test_a_large_scan_is_read(seven, mode, tmp_path):
    seven.resize((5_000, 5_000), Image.Resampling.NEAREST).convert(mode).save(tmp_path / "scan.png", compress_level=1)
    seven.convert("L").save(tmp_path / "small.png")
    assert alike(read_image(tmp_path / "scan.png"), read_image(tmp_path / "small.png"))


def test_files_that_cannot_be_read_cost_a_line_each(seven, tmp_path, capsys, monkeypatch):
    for name in ("a.png", "c.png", "harmed.png"):
        seven.save(tmp_path / name)
    whole = (tmp_path / "harmed.png").read_bytes()
    (tmp_path / "harmed.png").write_bytes(whole[:8] + b"\x00\x00\x00\x05" + whole[12:])
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "d.jpg").touch()
    Image.new("L", (50, 50), 255).save(tmp_path / "e.png")
    Image.new("L", (900, 900), 255).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300_000)
    files, images = read_images(find_images(tmp_path))
    assert [file.name for file in files] == ["a.png", "c.png", "e.png"]
    assert images.shape == (3, 28, 28)
    assert images[2].max() == 0
    lines = capsys.readouterr().err.splitlines()
    for name, line in zip(("b.png", "bomb.png", "d.jpg", "e.png", "harmed.png"), lines, strict=True):
        assert name in line
        assert ("is blank" in line) == (name == "e.png")
    with pytest.raises(UserError, match="None of the 1 files"):
        read_images([tmp_path / "b.png"])


@pytest.mark.parametrize("path", ["no.png", "folder.png", None])
def test_without_images_the_option_is_named(path, tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match="predict_path"):
        find_images(path and tmp_path / path)


def test_predict_without_images_says_which_option_is_missing():
    with pytest.raises(ValueError, match=r"set --data.predict_path"):
        find_images(None)


def test_predict_finds_the_digit_in_every_form(cli, mnist, seven, tmp_path):
    epochs = (
        ("--trainer.max_epochs=2", "--data.batch_size=512")
        if mnist.real
        else ("--trainer.max_epochs=8", "--data.batch_size=64")
    )
    assert cli("fit", "--config", CONFIGS / "mnist.yaml", *mnist.options, *epochs, "--test_after_fit=false").code == 0
    folder = tmp_path / "digits"
    folder.mkdir()
    forms = variants(seven)
    for name, image in forms.items():
        image.save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / "half.jpg").write_bytes((folder / "faint_on_paper.jpg").read_bytes()[:600])
    done = cli("predict", "--ckpt_path", "runs/mnist/version_0", f"--data.predict_path={folder}")
    assert done.code == 0, done.err
    assert "file" in done.out
    assert "half.jpg is left out: it cannot be read as an image" in done.err
    assert "probability" in done.out
    with (tmp_path / "runs/mnist/version_1/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [str(folder / name) for name in sorted(forms)]
    assert all(0 < float(row["probability"]) <= 1 for row in rows)
    if mnist.real:
        assert [row["digit"] for row in rows] == ["7"] * len(forms)
    one = cli("predict", "--ckpt_path", "runs/mnist/version_0", "--data.predict_path=digits/tiny.png")
    assert one.code == 0
    assert "tiny.png" in one.out
    assert "colour.png" not in one.out


def test_sixteen_bits_a_pixel_are_the_same_image(seven, tmp_path):
    seven.convert("L").save(tmp_path / "8.png")
    pixels = torch.tensor(list(seven.convert("L").tobytes()), dtype=torch.int32) * 257
    deep = Image.new("I;16", seven.size)
    deep.putdata(pixels.tolist())
    deep.save(tmp_path / "16.png")
    with Image.open(tmp_path / "16.png") as file:
        assert file.mode.startswith("I")
    assert torch.equal(read_image(tmp_path / "16.png"), read_image(tmp_path / "8.png"))
