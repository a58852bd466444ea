"""What every part of Glyph uses, and what knows no model: settings, files, progress and pages.

- `html/`: the frame of a page, sprite sheets of images, the confusion matrix
- `configuration.py`: settings from the command line, the environment and YAML, typed, by one set of names
- `atomic_files.py`: files that are whole or absent, whenever the writer is killed
- `progress.py`: bars in a terminal, plain lines in a log
- `errors.py`: the error of a setting, and text from a file as one line

Imports go down only: nothing here imports `bundle`, `imagesets`, `training` or `serving`.
"""
