"""What happens around every step: settings, report, guard, approval, news, metrics, callbacks."""
