"""The commands for a person's own machine: `local`, a whole run as processes, and `status`."""
