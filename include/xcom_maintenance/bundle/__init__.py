"""What the DAG files load: the flow of each DAG, and all settings put together."""
