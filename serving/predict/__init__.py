"""A prediction, from a request to its answer, without HTTP libraries: both worker classes come through here.

- `pipeline.py`: the order in which things happen to a request; read it first
- `native.py`, `oip.py`: what is asked and answered by `POST /predict`, and by the Open Inference Protocol
- `content_coding.py`, `response_json.py`: codings undone and made; from probabilities to JSON
- `bodies/`: from a body of each content type to images
- `exchange.py`: a prediction's way as plain data; `query.py`: `?top=k&threshold=p`
- `load_shedding.py`: what happens when more is asked than can be answered
"""
