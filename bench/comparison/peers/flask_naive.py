"""Flask as in a tutorial, the baseline of all ratios: `gunicorn -k gthread flask_naive:app`."""

import classify
from flask import Flask, Response, jsonify, request

app = Flask(__name__)
session = classify.open_session()


@app.post("/predict")
def predict() -> Response:
    """Classify the posted image."""
    images = classify.from_body(request.content_type, request.get_data())
    return jsonify(classify.document(classify.run(session, images)))
