"""Names: of classes, of known sets, and what the names of files and folders say.

Imports go down only, in this order:

- `naming.py`: which names the numbers in a set's labels get
- `known_sets.py`: MNIST and its siblings: class names, orientation, numbers of the labels
- `class_names.py`: validation of class names; `file_names.py`: part and role by the words in a file's name
"""
