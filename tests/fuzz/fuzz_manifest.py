"""Fuzz the manifest parser: `python tests/fuzz/fuzz_manifest.py -max_total_time=30 tests/fuzz/corpus/manifest`."""

from driver import fuzz

if __name__ == "__main__":
    fuzz("check_manifest")
