"""Compares tfrun with the same work done by hand: `make bench`."""
