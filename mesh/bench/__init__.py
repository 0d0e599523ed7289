"""Benchmarks: each compares things inside one run on one machine and says which bars hold."""
