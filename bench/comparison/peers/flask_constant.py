"""A floor: Flask that reads the body and returns a constant; the cost of Flask without a model."""

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """Answer a constant."""
    request.get_data()
    return jsonify({"predictions": [{"label": 7, "probabilities": [0.1] * 10}]})
