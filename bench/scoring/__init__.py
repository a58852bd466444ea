"""The batch scorer: its rate, its memory, its decoding processes, and runs that are killed."""
