"""The service alone: its microseconds, and what it does overloaded, restarted, or given new versions."""
