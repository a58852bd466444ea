"""The command `glyph`: one name for the programs of the other packages, and `glyph predict`.

`python -m glyph` is the same. From top to bottom; imports go down only, and a program is imported when it is called:

- `__main__.py`: calls the program that the first word names
- `commands.py`: the table of the commands
- `predict.py`: `glyph predict`, which classifies the files that it is given
- `local.py`, `remote.py`: what answers: the service's own pipeline in this process, or a running service
- `table.py`, `json_lines.py`: what a terminal and what a pipe gets
- `files.py`, `answers.py`, `settings.py`: reading a file; what answers say, and the errors; the options
- `endings.py`: how a command ends where a package is missing, or where its output's reader has gone
"""
