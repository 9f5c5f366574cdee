r"""Run, checkpoint, resume and log every training.

You need not open this package to use the template. Replace it as a whole to update it.

To bring a newer engine into a project that started from the template:

    git remote add template <address of the template>
    git fetch template
    git rm -rq src/engine tests/engine
    git checkout template/main -- src/engine src/cli.py src/__main__.py tests/engine ':(glob)tests/[!t]*.*' \
        ':!tests/conftest.py'
    git diff HEAD template/main -- src/module.py src/data/loader.py tests/conftest.py Makefile pyproject.toml
    make lint test

Only files of the engine are replaced. The `git diff` shows the files that both sides edit; `+` is the template's.
"""
