"""The page of `demo`: a real browser draws on it, and a client asks it."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from torchvision.datasets import MNIST

import src.tools.demo
from tests.conftest import CONFIGS, SMALL, run_process
from tests.processes import free_port, start

pytestmark = pytest.mark.slow
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory, mnist):
    """Serve a net of MNIST; return the address and the process."""
    pytest.importorskip("gradio")
    folder = tmp_path_factory.mktemp("demo")
    words = ["--config", CONFIGS / "mnist.yaml", *mnist.options, "--trainer.max_epochs=3", "--trainer.callbacks=null"]
    fit = run_process("fit", *words, cwd=folder)
    assert fit.returncode == 0, fit.stderr
    address, process = serve(folder, "runs/mnist/version_0")
    yield address
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


def serve(folder: Path, run: str) -> tuple[str, subprocess.Popen[str]]:
    """Start the page of a run as a process."""
    port = free_port()
    process = start("demo", "--ckpt_path", run, "--port", port, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    assert address in process.stdout.readline()
    return address, process


@pytest.fixture(scope="module")
def browser():
    """A real Chromium without a screen."""
    playwright = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visit(browser, address, width=1100):
    """Open the page; return it with the hosts that it asks and the errors that it reports."""
    tab, hosts, errors = browser.new_page(viewport={"width": width, "height": 800}), set(), []
    tab.on("request", lambda request: hosts.add(request.url.split("/")[2] if "//" in request.url else "inside"))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(address)
    tab.locator("label, canvas").first.wait_for()
    return tab, hosts, errors


def answer(tab) -> str:
    """Return the answer that the page shows once it stays the same."""
    label, seen = tab.get_by_test_id("label-output-value"), []
    while len(seen) < 4 or len(set(seen[-4:])) > 1:
        tab.wait_for_timeout(400)
        seen.append(label.inner_text().strip())
    return seen[-1]


def test_a_seven_that_is_drawn_is_read(page, browser):
    tab, hosts, errors = visit(browser, page)
    tab.get_by_label("Brush Size").wait_for()  # the brush is at hand without a click
    box = tab.locator("canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.mouse.move(x - 70, y - 80)
    tab.mouse.down()
    tab.mouse.move(x + 70, y - 80)
    tab.mouse.move(x - 20, y + 100)
    tab.mouse.up()
    assert answer(tab) == "7"
    assert hosts <= {page.removeprefix("http://"), "inside"}
    assert errors == []


def test_an_upload_and_the_client_of_the_docstring_get_the_same_answer(page, browser, mnist, tmp_path):
    tab, _, errors = visit(browser, page, width=400)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no picture")
    MNIST(mnist.root, train=False)[0][0].save(tmp_path / "digit.png")
    for name in ("broken.png", "digit.png"):
        tab.reload()
        tab.locator("input[type=file]").first.set_input_files(tmp_path / name)
        if name == "broken.png":
            assert "no image that can be read" in tab.get_by_test_id("toast-body").inner_text()
            errors.clear()
    shown = answer(tab)
    assert errors == []
    python, _, shell = textwrap.dedent(src.tools.demo.__doc__.partition("too:\n")[2]).partition("\napi=")
    python = python.replace("http://127.0.0.1:7860", page)
    done = subprocess.run([sys.executable, "-c", python], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"'label': '{shown}'" in done.stdout
    api, send, ask = f"api={shell}".replace("http://127.0.0.1:7860", page).strip().splitlines()
    send, ask = f"{api}; {send}", f"{api}; {ask}"
    path = subprocess.run(send, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout[2:-2]
    ask = ask.replace("PATH", path)
    said = subprocess.run(ask, shell=True, capture_output=True, text=True, check=True).stdout
    assert f'"label":"{shown}"' in said


def test_requests_at_the_same_time_get_the_answers_of_their_own_images(page, mnist, tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file, (image, _) in zip(files, MNIST(mnist.root, train=False), strict=False):
        image.save(file)
    sent = [word for file in files for word in ("-F", f"files=@{file}")]
    done = subprocess.run(["curl", *sent, f"{page}/gradio_api/upload"], capture_output=True, check=True)
    paths = json.loads(done.stdout)

    def ask(path: str) -> str:
        data = json.dumps({"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, None]}).encode()
        request = Request(f"{page}/gradio_api/run/predict", data, {"Content-Type": "application/json"})
        with urlopen(request) as answered:
            return json.load(answered)["data"][0]["label"]

    alone = [ask(path) for path in paths]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, paths * 10)) == alone * 10


def test_switches_ask_xor_and_ctrl_c_ends_the_page(browser, tmp_path):
    pytest.importorskip("gradio")
    assert run_process("fit", "--config", SMALL, "--trainer.max_epochs=8", cwd=tmp_path).returncode == 0
    address, process = serve(tmp_path, "runs/xor/version_0")
    tab, _, errors = visit(browser, address)
    before = answer(tab)
    tab.get_by_label("x0").click()
    assert answer(tab) != before
    assert errors == []
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
