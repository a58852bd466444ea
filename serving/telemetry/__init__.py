"""Metrics, logging and tracing of the service.

- `request_log.py`: the access-log line and the spans of a request, from its `request_record.py`
- `metrics.py`, `shared_memory.py`: counters and histograms, in memory that survives the process that writes them
- `worker_files.py`: the files of all workers, and the sums of what they count
- `catalogue.py`, `alerts.py`: tables of all metrics and of all alerts
- `readiness_report.py`: the answer of `/readyz`
- `tracing.py`, `logs.py`: W3C trace context and OpenTelemetry; one format for all log lines
"""
