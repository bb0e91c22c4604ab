"""What tasks and the controller share: identity, modes, job.json, protocol, exits, log."""
