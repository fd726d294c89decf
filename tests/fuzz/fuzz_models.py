"""Fuzz the parser of lists of models: `python tests/fuzz/fuzz_models.py -max_total_time=30`, then corpus folders."""

from driver import fuzz

if __name__ == "__main__":
    fuzz("check_models")
