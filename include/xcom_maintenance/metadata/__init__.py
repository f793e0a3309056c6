"""The metadata database: a port for each job, and the adapters that fulfil them."""
