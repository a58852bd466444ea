"""What is asked of the operating system: sockets, processors, memory, descriptors, processes.

- `addresses.py`: where the service listens; `descriptors.py`: how many files a process may open
- `cpus.py`, `memory.py`: what a container leaves this process
- `memory_directory.py`: the directory in memory that the processes of one service share
- `heartbeat.py`: signs of life over a socket pair; `parent_death.py`: the signal when a parent is gone
- `streams.py`: standard output and error, for which no process waits
"""
