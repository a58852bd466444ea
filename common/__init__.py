"""Utilities that every package uses and that know nothing of models: settings, files, progress, HTML pages.

- `html/`: the page template of reports, sprite sheets of images, the confusion matrix
- `configuration.py`: typed settings from the command line, the environment and YAML, under one set of names
- `atomic_files.py`: atomic file writes
- `download.py`: HTTP downloads, bounded in time and size
- `object_store.py`, `store_urls.py`: objects below a URL of fsspec, with one kind of error; which URLs are accepted
- `progress.py`: progress bars in a terminal, plain lines in a log
- `errors.py`: `ConfigurationError`, and `one_line` for quoting untrusted text

Imports go down only: nothing here imports `bundle`, `imagesets`, `training` or `serving`.
"""
