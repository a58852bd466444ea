"""The distributed training Job: its pods, in networks of their own, meet by name and train one model together."""

from contextlib import ExitStack

from bundle.repository import Bundle, versions
from tests.containers.cluster import OVERLAY, SHORT, Cluster, Runs, pod_of
from tests.containers.conftest import Image
from tests.containers.docker import Engine
from tests.containers.podman import playable
from tests.k8s.rendering import component

SUBNET = "10.89.77"
NAME = "together"


def test_the_pods_of_the_distributed_job_train_one_model(
    cluster: Cluster, engine: Engine, train: Image, trained_by_pods: Runs
) -> None:
    """Torchrun as the manifest starts it, by the index and the name that the Job gives; one bundle is published."""
    assert trained_by_pods.second.code == 0
    rendering = component("distributed", on=OVERLAY)
    job = rendering.one("Job", "glyph-train")
    service = rendering.one("Service", "glyph-train")
    pods = job["spec"]["completions"]
    first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    settings = rendering.one("ConfigMap", "glyph-train")
    settings = settings | {
        "data": settings["data"] | SHORT | {"GLYPH_TRAIN_NAME": NAME, "GLYPH_TRAIN_EPOCHS": "1"}
    }
    image = cluster.podman.load(engine, train.tag)
    network = cluster.podman.network("glyph-peers", f"{SUBNET}.0/24")
    with ExitStack() as stack:
        playing = []
        for index in range(pods):
            # The Job's controller names and numbers its pods; the headless Service says where the first one is.
            pod = playable(
                job, image, variables={"JOB_COMPLETION_INDEX": str(index)}, packages=train.packages
            )
            pod["metadata"]["name"] += f"-{index}"
            pod_of(pod)["hostAliases"] = [{"ip": f"{SUBNET}.10", "hostnames": [first]}]
            place = f"{network}:ip={SUBNET}.{10 + index}"
            playing.append(stack.enter_context(cluster.podman.playing(settings, pod, network=place)))
        ends = [pod.ended() for pod in playing]
    assert [end.code for end in ends] == [0] * pods, "\n".join(end.log for end in ends)
    # Had they not met, each would have trained alone: told of its epochs, and published.
    assert "epoch   1" in ends[0].log
    assert f"published /glyph/models/{NAME}/1" in ends[0].log
    assert ends[1].log == ""
    assert versions(cluster.volume / "models" / NAME) == [1]
    assert Bundle.open(cluster.volume / "models" / NAME / "1").manifest.test.accuracy > 0.8
