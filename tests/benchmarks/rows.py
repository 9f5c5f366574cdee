"""What is compared with what, and the bar each comparison has to meet."""

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.benchmarks.child import PROJECT, run

ONE_EPOCH, ALL_EPOCHS = 1, 10
SEEDS = range(5)


@dataclass
class Row:
    """A line of the table.

    Args:
        key: The letter that `--only` takes.
        what: What is compared.
        unit: Of both figures.
        ours: The template's figure of each pair.
        other: The other's.
        inverse: Whether the ratio of a pair is other / ours, not ours / other.
        bar: What the median ratio must keep to; of a row without others, what the worst of `ours` must.
        at_least: Whether the bar is a lower one.
        note: In place of figures, why there are none; beside them, what a reader has to know.
    """

    key: str
    what: str
    unit: str = "s"
    ours: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    inverse: bool = False
    bar: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Of each pair."""
        pairs = zip(self.ours, self.other, strict=True) if self.other else ()
        return [other / ours if self.inverse else ours / other for ours, other in pairs]

    @property
    def figure(self) -> float | None:
        """What the bar is held against."""
        if self.other:
            return statistics.median(self.ratios)
        return (min if self.at_least else max)(self.ours) if self.ours else None

    @property
    def verdict(self) -> str:
        """`met`, `missed`, `no bar` or `not measured`."""
        if self.figure is None:
            return "not measured"
        if self.bar is None:
            return "no bar"
        return "met" if (self.figure >= self.bar if self.at_least else self.figure <= self.bar) else "missed"

    def record(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return asdict(self) | {"ratios": self.ratios, "figure": self.figure, "verdict": self.verdict}


class Suite:
    """Measures rows, and keeps what each run returned.

    Args:
        pairs: Of each comparison; by default what it asks for itself.
        root: Folder of the data.
        full: Whether the usual pipeline runs all its epochs.
    """

    def __init__(self, pairs: int | None, root: Path, full: bool) -> None:
        self.pairs = pairs
        self.root = str(root.resolve())
        self.full = full
        self.runs: list[dict[str, Any]] = []

    def measure(self, only: set[str]) -> Iterator[Row]:
        """Yield the rows whose key is in `only`, each as soon as it is measured."""
        parts: list[tuple[str, Callable[[], list[Row]]]] = [
            ("a d", self.mnist),
            ("acc", self.accuracy),
            ("b", self.usual),
            ("c", self.xor),
            ("e", self.start_up),
            ("f", self.growth),
            ("g", self.gpu),
            ("h", self.loading),
            ("i", self.table),
            ("j", self.sweep),
            ("k", self.pictures),
        ]
        for keys, part in parts:
            if only & set(keys.split()):
                yield from (row for row in part() if row.key in only)

    def _run(self, name: str, **options: Any) -> dict[str, Any]:
        sys.stderr.write(f"  {name} {options}\n")
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            place = {"folder": folder} if name.startswith(("ours", "usual", "pictures")) else {}
            result = run(name, **options, **place)
        self.runs.append({"run": name, "options": options} | result)
        return result

    def _in_turns(self, ours: str, other: str, pairs: int, *, seeds: bool = True, **both: Any) -> list[tuple[Any, Any]]:
        results = []
        for number in range(self.pairs or pairs):
            options = both | ({"seed": number} if seeds else {})
            results.append((self._run(ours, **options), self._run(other, **options)))
        return results

    def mnist(self) -> list[Row]:
        """(a) and (d): our MNIST fit against the hand-written loop, time and memory of the same runs."""
        pairs = self._in_turns("ours.mnist", "handwritten.mnist", 5, root=self.root)
        if any(ours["steps"] != other["steps"] for ours, other in pairs):
            raise RuntimeError(
                "The two loops took different numbers of steps: make handwritten.mnist follow the config."
            )
        worst = [min(result["test_acc"] for result in column) for column in zip(*pairs, strict=True)]
        note = "worst test accuracy {:.4f} / {:.4f}".format(*worst)
        return [
            self._row(pairs, "seconds", "a", "MNIST fit / hand-written loop", bar=1.25, note=note),
            self._row(pairs, "peak_mib", "d", "peak memory of (a)", unit="MiB", bar=1.2),
        ]

    @staticmethod
    def _row(pairs: list[tuple[Any, Any]], value: str, *args: Any, **kwargs: Any) -> Row:
        ours, other = ([result[value] for result in column] for column in zip(*pairs, strict=True))
        return Row(*args, ours=ours, other=other, **kwargs)

    def accuracy(self) -> list[Row]:
        """The test accuracy of the default MNIST run over five seeds, of which (a) may have run some already."""
        known = {r["options"]["seed"]: r for r in self.runs if r["run"] == "ours.mnist"}
        results = [known.get(seed) or self._run("ours.mnist", root=self.root, seed=seed) for seed in SEEDS]
        accuracies = [result["test_acc"] for result in results]
        what = f"MNIST test accuracy, worst of {len(SEEDS)} seeds"
        return [Row("acc", what, unit="", ours=accuracies, bar=0.980, at_least=True)]

    def usual(self) -> list[Row]:
        """(b): our MNIST fit against a DataLoader with per-sample transforms."""
        epochs = ALL_EPOCHS if self.full else ONE_EPOCH
        pairs = []
        for number in range(self.pairs or 2):
            options = {"root": self.root, "seed": number}
            pairs.append((self._run("ours.mnist", **options), self._run("usual.mnist", **options, epochs=epochs)))
        note = "batch size 128, no workers" + ("" if self.full else "; one epoch of it, scaled to ten")
        what = "usual pipeline / MNIST fit"
        return [self._row(pairs, "seconds", "b", what, inverse=True, bar=10.0, at_least=True, note=note)]

    def xor(self) -> list[Row]:
        """(c): our XOR fit against the hand-written loop."""
        pairs = self._in_turns("ours.xor", "handwritten.xor", 5, seeds=False)
        return [self._row(pairs, "seconds", "c", "XOR fit / hand-written loop", bar=4.0)]

    def start_up(self) -> list[Row]:
        """(e): our help against the import of Lightning's command line."""
        commands = {
            "--help": ["-m", "src", "--help"],
            "fit --help": ["-m", "src", "fit", "--help"],
            "import": ["-c", "import lightning.pytorch.cli"],
        }
        for command in commands.values():
            _seconds(command)  # compiles the bytecode, fills the disk's cache
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(self.pairs or 5):
            for name, command in commands.items():
                sys.stderr.write(f"  python {' '.join(command)}\n")
                times[name].append(_seconds(command))
                self.runs.append({"run": "python", "options": command, "seconds": times[name][-1]})
        return [
            Row("e", f"start-up: {name} / import of the CLI", ours=times[name], other=times["import"], bar=1.3)
            for name in ("--help", "fit --help")
        ]

    def growth(self) -> list[Row]:
        """(f): time of an epoch as the data grows; the first epoch of a run warms up and does not count."""
        epochs = {1: 6, 4: 3, 16: 2}
        per_image: dict[int, list[float]] = {times: [] for times in epochs}
        for number in range(self.pairs or 3):
            for times, count in epochs.items():
                result = self._run("ours.mnist_repeated", root=self.root, seed=number, times=times, epochs=count)
                per_image[times].append(statistics.median(result["epoch_seconds"][1:]) * 1e6 / (55_000 * times))
        return [
            Row("f", f"epoch time per image, {times}x data / 1x", "us", per_image[times], per_image[1], bar=1.25)
            for times in (4, 16)
        ]

    def loading(self) -> list[Row]:
        """(h): an ordinary DataLoader through the engine against the same loader bare."""
        return [
            self._row(
                self._in_turns("loading.adopted", "loading.bare", 5, root=self.root, num_workers=workers),
                "seconds",
                "h",
                f"a DataLoader through the engine / bare, {workers} workers",
                bar=1.05,
            )
            for workers in (0, 2)
        ]

    def table(self) -> list[Row]:
        """(i): the table of 1,000 runs, each with the files of a real one."""
        times = []
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            run("ours.xor", folder=folder)
            first = Path(folder, "xor", "version_0")
            for number in range(1, 1_000):
                shutil.copytree(first, first.with_name(f"version_{number}"), ignore=shutil.ignore_patterns("*.ckpt"))
            command = ["-m", "src", "runs", "--root", folder]
            for _ in range(self.pairs or 5):
                sys.stderr.write(f"  python {' '.join(command)}\n")
                times.append(_seconds(command))
                self.runs.append({"run": "python", "options": command, "seconds": times[-1]})
        return [Row("i", "`python -m src runs` with 1,000 runs, worst", ours=times, bar=1.0)]

    def sweep(self) -> list[Row]:
        """(j): what a trial costs beyond its fit, in a warm process."""
        row = Row("j", "a trial of XOR by sweep, beyond its fit", bar=0.3)
        if find_spec("src.tools.sweep") is None:
            row.note = "not measured: src/tools/sweep was removed"
            return [row]
        results = [self._run("ours.sweep", trials=20) for _ in range(self.pairs or 3)]
        row.ours = [result["seconds_beyond"] for result in results]
        row.note = "20 trials against the sum of their fits"
        return [row]

    def pictures(self) -> list[Row]:
        """(k): a validation of photos with thousands of classes, with its pictures and without."""
        pairs = [
            (self._run("pictures.validate", drawn=True), self._run("pictures.validate", drawn=False))
            for _ in range(self.pairs or 3)
        ]
        what = "3,000 classes, photos of 1200 x 1200: with pictures / without"
        return [
            self._row(pairs, "seconds", "k", what, bar=2.0),
            self._row(pairs, "peak_mib", "k", "peak memory of (k)", unit="MiB", bar=1.25),
        ]

    def gpu(self) -> list[Row]:
        """(g): time per image on a GPU, against the hand-written loop, and compiled against one CUDA graph."""
        plain = Row("g", "GPU: MNIST / hand-written loop", "images/s", inverse=True, bar=1.25)
        graphs = Row("g", "GPU: MNIST with model.compile / CUDA graph", "images/s", inverse=True)
        if not run("handwritten.has_cuda")["cuda"]:
            plain.note = graphs.note = "not measured: no CUDA device"
            return [plain, graphs]
        for number in range(self.pairs or 5):
            options = {"root": self.root, "seed": number}
            plain.ours.append(_images_per_s(self._run("ours.mnist", **options, options=ON_GPU)))
            plain.other.append(_images_per_s(self._run("handwritten.mnist", **options, device="cuda")))
            graphs.ours.append(_images_per_s(self._run("ours.mnist", **options, options=[*ON_GPU, *COMPILED])))
            graphs.other.append(_images_per_s(self._run("handwritten.mnist_in_cuda_graphs", **options)))
        return [plain, graphs]


ON_GPU = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
COMPILED = ["--model.compile", "true"]


def _images_per_s(result: dict[str, Any]) -> float:
    """Of the median epoch; the first two warm up."""
    return float(result.get("images", 55_000) / statistics.median(result["epoch_seconds"][2:]))


def _seconds(command: list[str]) -> float:
    start_s = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start_s
