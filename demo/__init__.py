"""``make demo``: three real DAGs, the trouble that really happens to their XComs, and the maintenance of it."""
