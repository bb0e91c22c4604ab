"""What runs in a task pod: the story of one task, and its child process."""
