"""What tasks and the controller have in common: who, modes, job.json, protocol, exits, log."""
