"""Blob stores: a port, and an adapter for each kind of store."""
