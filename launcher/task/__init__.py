"""What runs in a task pod: the decisions of one task, and its child process."""
