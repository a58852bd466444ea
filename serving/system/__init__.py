"""The operating system: sockets, CPUs, memory, file descriptors, processes.

- `addresses.py`: where the service listens; `descriptors.py`: how many files a process may open
- `cpus.py`, `memory.py`: the CPUs and the memory that a container leaves this process
- `memory_directory.py`: the directory in shared memory of one service; `anonymous_files.py`: files without a name
- `heartbeat.py`: heartbeats over a socket pair; `parent_death.py`: the parent-death signal
- `streams.py`: standard output and error, written without blocking
"""
