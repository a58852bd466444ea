"""The statistics of Triton's extension, from the counters of all workers.

| member | is |
|---|---|
| `inference_count` | images that were classified; of a version that is not served by default, up to a second late |
| `execution_count` | inferences, each of one batch |
| `success` | answered prediction requests; the time of all prediction requests, failed ones included |
| `fail` | prediction requests with another status than 200, without a time |
| `queue`, `compute_input` | the phases queue and decode of each request |
| `compute_infer`, `compute_output` | the phases infer and encode; as in Triton, infer is the time of the whole batch |

What is not counted is 0: `last_inference`, `cache_hit`, `cache_miss`, the time of failures. `batch_stats` is empty:
`glyph_batch_images` has the sizes of batches, without a time for each. All but `inference_count` is counted for the
service and not by version, and is shown with the version that is served.

Source: triton-inference-server/server, docs/protocol/extension_statistics.md.
"""

from typing import Any

import orjson

from serving.predict.pipeline import PREDICTION_ROUTES
from serving.telemetry.worker_files import Numbers

PHASES = {"queue": "queue", "compute_input": "decode", "compute_infer": "infer", "compute_output": "encode"}
"""Members of the statistics, and the phases of a request (`pipeline.PHASES`)."""
NANOSECONDS = 1e9
OK = "200"


def statistics(numbers: Numbers, name: str, version: int, served: int) -> dict[str, Any]:
    """Return the statistics of a version.

    Args:
        numbers: of all workers (`Metrics.of_service`).
        name: the model's.
        version: its number.
        served: the number of the version that is served by default.
    """
    named = [(orjson.loads(key), values) for key, values in numbers.items()]
    classified = [(int(key[1]), values.sum()) for key, values in named if key[0] == "glyph_predictions_total"]
    of_others = sum(count for of_version, count in classified if of_version != served)
    batches = numbers.get(b'["glyph_batch_images"]')
    if version != served or batches is None:
        own = sum(count for of_version, count in classified if of_version == version)
        return _document(name, version, int(own), 0, dict.fromkeys(("success", "fail", *PHASES), (0, 0.0)))
    durations = {
        member: _count_and_sum(numbers.get(orjson.dumps(["glyph_phase_duration_seconds", phase])))
        for member, phase in PHASES.items()
    }
    of_routes = [(key, values) for key, values in named if len(key) > 1 and key[1] in PREDICTION_ROUTES]
    spent = sum(values[-1] for key, values in of_routes if key[0] == "glyph_http_request_duration_seconds")
    answers = [(key, values[0]) for key, values in of_routes if key[0] == "glyph_http_requests_total"]
    durations["success"] = (durations["compute_output"][0], spent)
    durations["fail"] = (int(sum(count for key, count in answers if key[3] != OK)), 0.0)
    images = max(0, round(float(batches[-1] - of_others)))
    return _document(name, version, images, int(batches[:-1].sum()), durations)


def _count_and_sum(histogram: Any) -> tuple[int, float]:
    return (0, 0.0) if histogram is None else (int(histogram[:-1].sum()), float(histogram[-1]))


def _document(
    name: str, version: int, images: int, executions: int, durations: dict[str, tuple[int, float]]
) -> dict[str, Any]:
    members = ("success", "fail", *PHASES, "cache_hit", "cache_miss")
    found = {member: durations.get(member, (0, 0.0)) for member in members}
    return {
        "name": name,
        "version": str(version),
        "last_inference": 0,
        "inference_count": images,
        "execution_count": executions,
        "inference_stats": {
            member: {"count": count, "ns": round(NANOSECONDS * seconds)}
            for member, (count, seconds) in found.items()
        },
        "batch_stats": [],
    }
