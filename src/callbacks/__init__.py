"""Each file here holds one callback that is on in every run; its arguments are options under the file's name.

`progress.py` gives `--progress.refresh_rate 5`. Delete a file (and its test) and what it does is gone; nothing else
changes. A callback for one experiment alone lives elsewhere and is named in YAML, under `trainer.callbacks`.
"""
