"""The Open Inference Protocol over gRPC, beside HTTP in the same event loop (`GLYPH_GRPC_PORT`; off by default).

From top to bottom, imports going down only:

- `connection.py`: a connection's HTTP/2, of which the library `h2` knows the frames: streams, limits, timeouts, drain
- `call.py`: one call, which is for the dispatcher what a connection is for HTTP/1.1
- `methods.py`: what each method answers; `inference.py`: ModelInfer, as a request of the same pipeline
- `messages.py`: the messages, of which `open_inference.proto` and `health.proto` tell the fields
- `status.py`: which gRPC status a problem has
- `installed.py`: whether the packages of the extra `grpc` are there

docs/decisions/grpc.md says why this is not grpcio's server.
"""
