"""What a person calls on a machine of their own: a whole run as processes, and `status`."""
