"""Fuzz the index parser: `python tests/fuzz/fuzz_index.py -max_total_time=30 tests/fuzz/corpus/index`."""

from driver import fuzz

if __name__ == "__main__":
    fuzz("check_index")
