"""Building blocks of the HTML reports, which are self-contained: no scripts, no requests to a network.

- `confusion_matrix.py`: the confusion matrix and metrics by class, as tables
- `frame.py`: the page template: style sheet, navigation, tables, escaping
- `sprite_sheet.py`: many images in one PNG, of which CSS shows each
"""
