"""The service alone: latency, and behaviour under overload, restarts and new versions."""
