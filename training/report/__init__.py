"""The page that is published beside a model.

From top to bottom; imports go down only. Open `page.py` first.

- `page`: what stands where
- `misclassified` (the misclassified images), `advice` (what the figures say to do), `figures` (curves and weights)
"""
