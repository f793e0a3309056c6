"""What tells a secret from any other text: a port, and its adapter."""
