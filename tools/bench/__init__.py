"""Measurements: each file prints a table and writes JSON; none of them is a test."""
