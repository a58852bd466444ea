"""The service: loads the newest published bundle, proves it, and answers `POST /predict`.

It reads what `training` published, through `bundle`, and imports neither `training` nor torch.
Open `predict.py` first (a request's way, in four calls), then `engine.py` (how a model is loaded
and proven) and `app.py` (the routes). `__main__.py` is how the service starts.
"""
