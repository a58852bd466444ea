"""The training report: an HTML page that is published with the model.

Open `page.py` first. Imports go down only, in this order:

- `page`: the sections of the page
- `misclassified` (misclassified test images), `advice` (diagnosis of the learning curves), `figures` (the plots)
"""
