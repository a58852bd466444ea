"""The page that is published beside a model.

From top to bottom; imports go down only. Open `report.py` first.

- `report`: what stands where
- `mistakes` (the misclassified images), `advice` (what the figures say to do), `figures` (curves and weights)
"""
