"""What is measured, logged and traced of the service's work.

- `request_log.py`: a request's line in the access log and its spans, from its `request_record.py`
- `metrics.py`, `shared_memory.py`: counters and histograms, in memory that survives its writer
- `catalogue.py`, `alerts.py`: every metric and every alert, in one table each
- `readiness_report.py`: what `/readyz` answers
- `tracing.py`, `logs.py`: the W3C trace context and OpenTelemetry; every line of the log in one format
"""
