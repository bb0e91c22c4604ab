"""What runs in the controller pod: HTTP, clock and Kubernetes calls around the decisions."""
