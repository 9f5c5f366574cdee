"""All tests are collected and all source is imported without the names that Windows lacks."""

import builtins
import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import PROJECT

MODULES = ("curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty")
OF_OS = """
    WEXITED WNOHANG WNOWAIT chown chroot ctermid fchdir fchown fork forkpty getegid geteuid getgid getgroups getloadavg
    getpgid getpgrp getpriority getsid getuid initgroups killpg lchown mkfifo mknod nice openpty pidfd_open posix_spawn
    pread pwrite sched_getaffinity sched_setaffinity sendfile setegid seteuid setgid setpgid setpgrp setpriority setsid
    setuid statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4 waitid
"""
OF_SIGNAL = """
    SIGALRM SIGBUS SIGCHLD SIGCONT SIGHUP SIGIO SIGKILL SIGPIPE SIGPROF SIGQUIT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG
    SIGUSR1 SIGUSR2 SIGVTALRM SIGWINCH alarm getitimer pause pthread_kill pthread_sigmask setitimer siginterrupt sigwait
"""


def is_ours(names: dict[str, Any] | None) -> bool:
    """Return whether code belongs to this project, by its globals."""
    path = str((names or {}).get("__file__"))  # a text: pathlib itself asks for what is taken away
    return path.startswith(f"{PROJECT}") and "site-packages" not in path


def take_away(module: ModuleType, names: str, **instead: str) -> None:
    """Hide or change names of a module for our code."""
    real = {name: vars(module).pop(name) for name in [*names.split(), *instead] if hasattr(module, name)}

    def lookup(name: str) -> Any:
        ours = is_ours(sys._getframe(1).f_globals)
        if ours and name in instead:
            return instead[name]
        if name not in real or ours:
            raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}, as on Windows")
        return real[name]

    module.__getattr__ = lookup  # type: ignore[method-assign]


def collect(log: Path) -> None:
    """Hide the names in this process, import and collect everything, and exit with pytest's code."""
    with log.open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        real_import = builtins.__import__

        def without(name: str, globals: Any = None, *rest: Any, **more: Any) -> ModuleType:
            if name in MODULES and is_ours(globals):
                raise ModuleNotFoundError(f"No module named {name!r}, as on Windows", name=name)
            return real_import(name, globals, *rest, **more)

        builtins.__import__ = without
        take_away(os, OF_OS, name="nt")
        take_away(signal, OF_SIGNAL)
        take_away(sys, "", platform="win32")
        for name in [name for name in sys.modules if name.partition(".")[0] in ("src", "tests")]:
            del sys.modules[name]
        os.chdir(PROJECT)
        code = pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "-p", "no:xdist", "tests"])
        for folder in ("src", "tests"):
            for path in sorted(PROJECT.joinpath(folder).rglob("*.py")):
                parts = path.relative_to(PROJECT).with_suffix("").parts
                if "__main__" not in parts[:2]:
                    importlib.import_module(".".join(parts))
    os._exit(code)


@pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="needs a fork server")
def test_everything_imports_without_posix(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["src.cli"])
    process = context.Process(target=collect, args=(tmp_path / "log",))
    process.start()
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")[-3_000:]
