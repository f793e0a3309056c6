"""The blob store: a port, and the adapters that fill it."""
