"""The tfrun launcher: runs one task of a distributed TensorFlow run, or the whole run.

Everything that runs inside a pod (`task`, `controller` and what they import) needs nothing but
the standard library of Python 3.9 or later.
"""
