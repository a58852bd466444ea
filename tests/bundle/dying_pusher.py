"""Push while being killed at every call of S3's API: `python -m tests.bundle.dying_pusher MODEL ENDPOINT`.

For each call there is a new bucket: the push is killed there, the bucket is looked at, and the push is repeated.
"""

import functools
import json
import os
import signal
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import s3fs

from bundle.remote import numbers, problems, published, push
from bundle.repository import resolve
from common.object_store import ObjectStore

MOST_CALLS = 500
WRITES = ("put_object", "create_multipart_upload", "upload_part", "complete_multipart_upload")


def main() -> None:
    """Print JSON: the number of deaths before and after a call, and what was wrong with a bucket."""
    model, endpoint = Path(sys.argv[1]), sys.argv[2]
    deaths, wrong = {"before": 0, "after": 0}, []
    for moment in deaths:
        for calls in range(MOST_CALLS):
            bucket = f"{moment}-{calls}"
            urllib.request.urlopen(urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")).close()
            if not forked(functools.partial(_dying, model, bucket, moment, calls)):
                break
            deaths[moment] += 1
            wrong += forked_result(functools.partial(_look, model, bucket))
    print(json.dumps({"deaths": deaths, "wrong": wrong}))


def _dying(model: Path, bucket: str, moment: str, calls: int) -> None:
    """Push a first version, and be killed before a call or after a writing one."""
    left = calls
    original = s3fs.S3FileSystem._call_s3

    async def call(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        counted = moment == "before" or method in WRITES
        if counted and moment == "before" and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await original(self, method, *args, **kwargs)
        if counted and moment == "after" and left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= counted
        return result

    s3fs.S3FileSystem._call_s3 = call
    push(resolve(model, 1), f"s3://{bucket}/models")


def _look(model: Path, bucket: str) -> list[str]:
    """Return what is wrong after a death, then after another version's push, then after the push is repeated."""
    url = f"s3://{bucket}/models"
    store = ObjectStore.open(f"{url}/shapes")
    wrong = [
        problem for found in published(store) for problem in problems(f"{url}/shapes", version=found.version)
    ]
    claimed = bool(store.names(".claims"))
    other = push(resolve(model, 2), url).version
    if other != (2 if claimed else 1):
        wrong.append(f"the other version became {other}")
    first = push(resolve(model, 1), url).version
    if {first, other} != {1, 2}:
        wrong.append(f"the versions became {first} and {other}")
    if numbers(store) != [1, 2]:
        wrong.append(f"there are {numbers(store)}")
    wrong += [problem for version in (1, 2) for problem in problems(f"{url}/shapes", version=version)]
    return [f"{bucket}: {problem}" for problem in wrong]


def forked(work: Callable[[], None]) -> bool:
    """Run it in a forked process; return whether that was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a fork must not run the parent's handlers
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status and not os.WIFSIGNALED(status):
        raise AssertionError(f"the process ended with status {status}, not by the signal")
    return os.WIFSIGNALED(status)


def forked_result(work: Callable[[], list[str]]) -> list[str]:
    """Return what it returns in a forked process, because fsspec's thread does not survive a fork."""
    reading, writing = os.pipe()

    def send() -> None:
        os.close(reading)
        os.write(writing, json.dumps(work()).encode())

    if forked(send):
        raise AssertionError("the process was killed")
    os.close(writing)
    with os.fdopen(reading) as file:
        found: list[str] = json.load(file)
    return found


if __name__ == "__main__":
    main()
