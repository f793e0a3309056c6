"""One flow each: settings, plan, guard, apply, report. A job sees ports, never an adapter."""
