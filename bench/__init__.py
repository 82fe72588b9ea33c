"""Benches that anybody can run: ``script/bench NAME``."""
