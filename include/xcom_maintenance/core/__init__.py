"""Pure decisions: no Airflow, no database driver, no cloud SDK, no clock of its own."""
