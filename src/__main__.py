"""Starts the command line: `python -m src {fit,validate,test,predict} --config configs/xor.yaml`."""

from src.cli import main

if __name__ == "__main__":
    main()
