"""A floor: Flask that reads the body and answers a constant; what it costs without any model."""

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """Answer a constant."""
    request.get_data()
    return jsonify({"predictions": [{"label": 7, "probabilities": [0.1] * 10}]})
