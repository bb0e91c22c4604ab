"""All decisions about a run, pure: `step(state, event, now)`. No I/O, no clock, no randomness."""
