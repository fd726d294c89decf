"""Fuzz the header parser: `python tests/fuzz/fuzz_header.py -max_total_time=30 tests/fuzz/corpus/header`."""

from driver import fuzz

if __name__ == "__main__":
    fuzz("check_header")
