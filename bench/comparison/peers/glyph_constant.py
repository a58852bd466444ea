"""A floor: Glyph's inference worker that returns a constant; the cost of its HTTP.

    gunicorn -c python:bench.comparison.peers.glyph_constant

Requests are read and routed and answers are written as ever; between the two nothing happens: no
admission, no decoding, no inference, no metrics.
"""

from typing import Any

from serving.predict.exchange import Response
from serving.process import gunicorn_conf
from serving.worker.inference_worker import InferenceWorker

globals().update({name: value for name, value in vars(gunicorn_conf).items() if not name.startswith("__")})

worker_class = "bench.comparison.peers.glyph_constant.ConstantWorker"

BODY = b'{"predictions":[{"label":7,"probabilities":[0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1]}]}'


class ConstantWorker(InferenceWorker):
    """Glyph's worker, but for what happens between request and answer."""

    def run(self) -> None:
        """Serve with a dispatcher that returns a constant."""
        from serving.worker.dispatcher import Dispatcher

        def predict(_dispatcher: Any, connection: Any, *_request: Any) -> None:
            connection.send_response(Response(body=BODY))

        Dispatcher.predict = predict  # type: ignore[method-assign]  # in this process, for this measurement
        super().run()
