"""A prediction from request to response, without an HTTP library; both worker classes use it.

- `pipeline.py`: the steps of every prediction request, in order; read it first
- `native.py`, `oip.py`, `tf_serving.py`: requests and responses of `POST /predict`, of the Open Inference Protocol, and
  of TensorFlow Serving's API
- `content_coding.py`, `response_json.py`: a compressed body, decoded; from probabilities to JSON
- `bodies/`: from a body of each content type to images
- `exchange.py`: requests, responses and what is between, as plain data; `query.py`: `?top=k&threshold=p`
- `load_shedding.py`: admission control, deadlines and backpressure
"""
