"""How the program's code gets into a task pod, from any source, and its digest."""
