"""The parts that every report is made of: one file of HTML, without scripts and without a network.

- `confusion_matrix.py`: counts of true against predicted classes, as a table
- `frame.py`: the page around what a report says: style, outline, escaping
- `sprite_sheet.py`: many images as one picture, out of which the page cuts each
"""
