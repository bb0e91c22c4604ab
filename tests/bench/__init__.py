"""What tfrun costs, beside the same done by hand: `make bench`."""
