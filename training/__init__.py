"""The batch job: images on disk become a published bundle.

Open `job.py` first: it is the whole way, top to bottom. `fit.py` holds the training step,
`export.py` what is proven before anything is published, `settings.py` every option there is.
"""
