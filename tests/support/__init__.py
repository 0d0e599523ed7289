"""Fixtures that are programs of their own."""
