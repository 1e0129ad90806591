"""The networks: architecture only, no input or output."""
