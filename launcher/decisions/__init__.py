"""All decisions about a run, as a pure function. No I/O, no clock, no randomness."""
