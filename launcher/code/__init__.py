"""Brings the program's code into a task pod, from any source, and computes its digest."""
