"""FastAPI: `uvicorn fastapi_server:app`, on uvloop and httptools.

The endpoint is a coroutine and runs the model in the loop: a thread's hand-over would cost more than
these tens of microseconds. orjson writes the answer.
"""

import classify
import orjson
from fastapi import FastAPI, Request, Response

app = FastAPI()
session = classify.open_session()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Classify the posted image."""
    images = classify.from_body(request.headers.get("content-type"), await request.body())
    answer = classify.document(classify.run(session, images))
    return Response(orjson.dumps(answer), media_type="application/json")
