"""The batch scorer: throughput, memory, decoder pool, and recovery from SIGKILL."""
