"""What is configured: the kinds of values, what every DAG has, where settings come from, and what is wrong with them.

A room declares its own settings in its ``settings.py``; ``bundle/settings.py`` puts them together, so that they are
validated as one. Precedence: trigger form, then the Airflow Variable ``xcom_maintenance`` (JSON), then
``include/xcom_maintenance.yaml``, then the defaults. ``docs/settings.md`` lists them for users.
"""
