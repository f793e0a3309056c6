"""``make demo``: three real DAGs, the trouble their XComs get into, and the maintenance that fixes it."""
