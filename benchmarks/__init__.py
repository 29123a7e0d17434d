"""Benchmarks: `python -m benchmarks.NAME [--quick] [--json FILE]` (see docs/performance.md)."""
