"""A real Postgres, S3 server and Airflow on this machine, without Docker, for tests, demo and benchmarks."""
