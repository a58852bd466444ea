"""A gRPC client without sockets: h2's client side, a connection of the service, and a loop that runs when asked."""

import asyncio
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h2.config
import h2.connection
import h2.events
import numpy as np
import numpy.typing as npt
from gunicorn.config import Config

from serving.settings import ServiceSettings
from serving.web.app import create_app
from serving.worker.connections import Connections
from serving.worker.dispatcher import Dispatcher
from serving.worker.rpc.connection import RpcConnection
from serving.worker.rpc.messages import message_class
from tests.serving.worker.fakes import Transport

INFER = "/inference.GRPCInferenceService/ModelInfer"
Request = message_class("inference.ModelInferRequest")
Response = message_class("inference.ModelInferResponse")
Pixels = npt.NDArray[np.uint8]
PATIENCE = 60.0
NONE: Mapping[str, str] = {}


def a_request(images: Pixels, *, raw: bool = True, model: str = "synthetic", **fields: Any) -> Any:
    """Return a request for the outputs of `uint8[n, 28, 28]`."""
    message = Request(model_name=model, **fields)
    tensor = message.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    if raw:
        message.raw_input_contents.append(images.tobytes())
    else:
        tensor.contents.uint_contents.extend(images.ravel().tolist())
    return message


def framed(message: bytes, *, compressed: int = 0) -> bytes:
    """Return a message behind its prefix."""
    return bytes([compressed]) + len(message).to_bytes(4, "big") + message


@dataclass
class Result:
    """What has come back of a call."""

    data: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)
    """Head and trailers together."""
    ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> int:
        """The code of gRPC."""
        return int(self.fields["grpc-status"])

    @property
    def message(self) -> bytes:
        """The only message of the answer."""
        assert len(self.data) >= 5
        assert len(self.data) == 5 + int.from_bytes(self.data[1:5], "big")
        return self.data[5:]


class Peer:
    """A client, its connection, and the process behind it."""

    def __init__(self, model: Path, **settings: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.worker = SimpleNamespace(
            wsgi=create_app(ServiceSettings(model=model, provider="cpu", **settings)),
            cfg=Config(),
            log=SimpleNamespace(access_log_enabled=False, debug=print, warning=print, exception=print),
            nr=0,
            max_requests=sys.maxsize,
        )
        self.store = self.worker.wsgi.extensions["glyph"]
        self.dispatcher = Dispatcher(self.worker, self.loop)
        self.connections = Connections(self.dispatcher)
        self.connect()

    def connect(self) -> None:
        """Make another connection, and speak over it from now on."""
        self.connection: RpcConnection = self.connections.connect(RpcConnection)
        self.transport = Transport()
        self.transport.protocol = self.connection
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.results: dict[int, Result] = {}
        self.goaways: list[int] = []
        """The last stream of each GOAWAY frame."""
        self.connection.connection_made(self.transport)
        self.exchange()

    def close(self) -> None:
        """End the process."""
        self.dispatcher.close()
        self.dispatcher.threads.shutdown()
        self.loop.close()

    def exchange(self) -> None:
        """Send what the client has to send, and read what is written."""
        for _ in range(100):
            sent, written = self.h2.data_to_send(), self.transport.written
            self.transport.written = b""
            if self.transport.open:
                self.transport.take()
            if not sent and not written:
                return
            if sent and self.transport.open:
                self.connection.data_received(sent)
            self._read(written)

    def _read(self, data: bytes) -> None:
        while data:  # h2's client would end at the first GOAWAY frame
            length, kind = int.from_bytes(data[:3], "big"), data[3]
            frame, data = data[: 9 + length], data[9 + length :]
            if kind == 7:
                self.goaways.append(int.from_bytes(frame[9:13], "big"))
                continue
            for event in self.h2.receive_data(frame):
                self._take(event)

    def _take(self, event: Any) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.results[event.stream_id].fields |= {str(name): str(value) for name, value in event.headers}
        elif isinstance(event, h2.events.DataReceived):
            self.results[event.stream_id].data += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.results[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            self.results[event.stream_id].reset = int(event.error_code)

    def begin(self, path: str = INFER, headers: Mapping[str, str] = NONE) -> int:
        """Send the head of a call, and return its stream."""
        stream: int = self.h2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "a"}
        head |= {"te": "trailers", "content-type": "application/grpc"}
        self.h2.send_headers(stream, [*(head | dict(headers)).items()])
        self.results[stream] = Result()
        return stream

    def send(self, stream: int, data: bytes, *, end: bool = True) -> None:
        """Send some of a call's body, as its window lets it."""
        while len(data) > (size := min(self.h2.local_flow_control_window(stream), 16384)):
            self.h2.send_data(stream, data[:size])
            data = data[size:]
            self.exchange()
            if self.results[stream].fields or self.results[stream].reset is not None:
                return
        self.h2.send_data(stream, data, end_stream=end)
        self.exchange()

    def ask(
        self,
        message: Any,
        path: str = INFER,
        headers: Mapping[str, str] = NONE,
        *,
        compressed: int = 0,
    ) -> Result:
        """Make a call, and return what it ended with."""
        stream = self.begin(path, headers)
        body = message if isinstance(message, bytes) else message.SerializeToString()
        self.send(stream, framed(body, compressed=compressed))
        return self.answered(stream)

    def answered(self, stream: int) -> Result:
        """Wait for the end of a call."""
        result = self.results[stream]
        self.until(lambda: result.ended or result.reset is not None)
        return result

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop until a condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it never came true"
            self.loop.run_until_complete(asyncio.sleep(0.001))
            self.exchange()

    def tick(self, seconds: float = 0.0) -> None:
        """Let the connection look at the time, some seconds from now."""
        self.connection.tick(self.loop.time() + seconds)
        self.exchange()
