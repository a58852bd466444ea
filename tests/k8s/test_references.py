"""What one object says of another: selectors, ports, volumes, keys, targets, accounts, and who may talk to whom."""

import ipaddress
from typing import Any

import pytest

from tests.k8s.rendering import (
    CASES,
    COMPONENTS,
    K8S,
    Document,
    Pod,
    Rendering,
    complete,
    component,
    overlay,
    pods,
)

NAMESPACE = "glyph"
CLUSTER_WIDE = {"Namespace", "ResourceFlavor", "ClusterQueue"}
CONVENTION = {"app.kubernetes.io/name": "glyph", "app.kubernetes.io/part-of": "glyph"}


def selected(selector: dict[str, str], among: list[Pod]) -> list[Pod]:
    """Return the pods that have all of a selector's labels."""
    return [pod for pod in among if selector.items() <= pod.labels.items()]


def all_pods(rendering: Rendering) -> list[Pod]:
    """Return the pods of a rendering and of the other parts of its overlay."""
    return list(pods(Rendering("", complete(rendering))))


def named_ports(pod: Pod) -> dict[str, int]:
    """Return the pod's ports by name."""
    return {port["name"]: port["containerPort"] for c in pod.containers for port in c.get("ports", [])}


def find(rendering: Rendering, kind: str, name: str) -> Document:
    """Return the object that is meant, which must be there once at least."""
    found = [d for d in complete(rendering) if (d["kind"], d["metadata"]["name"]) == (kind, name)]
    assert found, f"{rendering.name}: there is no {kind} {name}"
    return found[0]


@pytest.mark.parametrize("case", CASES)
def test_selectors_select_this_services_pods(case: str) -> None:
    """Services, budgets, policies, spread constraints and the Deployment find pods, and of one component only."""
    rendering = CASES[case]()
    everything = all_pods(rendering)
    for document in rendering.documents:
        spec = document.get("spec") or {}
        match document["kind"]:
            case "Service":
                selectors = [spec["selector"]]
            case "PodDisruptionBudget" | "Deployment" | "PodMonitor":
                selectors = [spec["selector"]["matchLabels"]]
            case "NetworkPolicy":
                selectors = [spec["podSelector"]["matchLabels"]] if spec["podSelector"] else []
            case _:
                continue
        for selector in selectors:
            chosen = selected(selector, everything)
            name = f"{document['kind']}/{document['metadata']['name']}"
            if name == "NetworkPolicy/glyph-store" or rendering.name.endswith(("+kserve", "+train-peers")):
                continue  # the first is for every workload; test_kserve.py has KServe's pods
            assert chosen, f"{name} selects nothing"
            assert len({pod.labels["app.kubernetes.io/component"] for pod in chosen}) == 1, name
    for pod in pods(rendering):
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            assert selected(constraint["labelSelector"]["matchLabels"], [pod])
        if pod.owner["kind"] == "Deployment":
            assert selected(pod.owner["spec"]["selector"]["matchLabels"], [pod])


@pytest.mark.parametrize("case", CASES)
def test_probes_and_policies_name_ports_that_their_pods_have(case: str) -> None:
    """A probe of a port that nobody has would end every pod; such a policy would let nobody in."""
    rendering = CASES[case]()
    everything = all_pods(rendering)
    for pod in pods(rendering):
        for container in pod.containers:
            own = {port[key] for port in container.get("ports", []) for key in ("name", "containerPort")}
            probes = [
                container[p] for p in ("startupProbe", "readinessProbe", "livenessProbe") if p in container
            ]
            assert {probe.get("httpGet", probe.get("grpc"))["port"] for probe in probes} <= own
    for policy in rendering.of("NetworkPolicy") if not rendering.name.endswith("+kserve") else ():
        asked = ports(policy["spec"].get("ingress", []))
        for pod in selected(policy["spec"]["podSelector"].get("matchLabels", {}), everything):
            assert asked <= named_ports(pod).keys()


@pytest.mark.parametrize("case", CASES)
def test_services_and_monitors_name_ports_that_their_pods_have(case: str) -> None:
    """And no pod is asked for its metrics twice."""
    rendering = CASES[case]()
    everything = all_pods(rendering)
    for service in rendering.of("Service"):
        for pod in selected(service["spec"]["selector"], everything):
            if pod.owner["metadata"]["name"] == service["metadata"]["name"].removesuffix("-management"):
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= named_ports(pod).keys()
    for monitor in rendering.of("PodMonitor"):
        for pod in selected(monitor["spec"]["selector"]["matchLabels"], everything):
            assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= named_ports(pod).keys()
    for monitor in rendering.of("ServiceMonitor"):
        labels = monitor["spec"]["selector"]["matchLabels"]
        services = [s for s in rendering.of("Service") if labels.items() <= s["metadata"]["labels"].items()]
        offered = [port["name"] for service in services for port in service["spec"]["ports"]]
        assert [offered.count(end["port"]) for end in monitor["spec"]["endpoints"]] == [1]


@pytest.mark.parametrize("case", CASES)
def test_what_comes_from_outside_finds_the_service(case: str) -> None:
    """Ingress by the name of the Service's port, HTTPRoute by its number."""
    rendering = CASES[case]()
    for ingress in rendering.of("Ingress"):
        spec = ingress["spec"]
        for backend in (
            path["backend"]["service"] for rule in spec["rules"] for path in rule["http"]["paths"]
        ):
            service = find(rendering, "Service", backend["name"])
            assert backend["port"]["name"] in [port["name"] for port in service["spec"]["ports"]]
        assert {rule["host"] for rule in spec["rules"]} == {
            host for tls in spec["tls"] for host in tls["hosts"]
        }
    for route in rendering.of("HTTPRoute"):
        for backend in (backend for rule in route["spec"]["rules"] for backend in rule["backendRefs"]):
            service = find(rendering, "Service", backend["name"])
            assert backend["port"] in [port["port"] for port in service["spec"]["ports"]]


@pytest.mark.parametrize("case", CASES)
def test_volumes_and_accounts_are_there(case: str) -> None:
    """Every mount has its volume, and every volume its claim, its ConfigMap or its Secret."""
    rendering = CASES[case]()
    for pod in pods(rendering):
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        mounted = {mount["name"] for c in pod.containers for mount in c.get("volumeMounts", [])}
        assert mounted == volumes.keys(), f"{pod.name}: a volume without a mount, or the other way round"
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                find(rendering, "PersistentVolumeClaim", claim["claimName"])
            if keys := volume.get("configMap"):
                find(rendering, "ConfigMap", keys["name"])
            if secret := volume.get("secret"):
                find(rendering, "Secret", secret["secretName"])
        account = find(rendering, "ServiceAccount", pod.spec["serviceAccountName"])
        assert account["automountServiceAccountToken"] is False


@pytest.mark.parametrize("case", CASES)
def test_every_variable_has_its_source(case: str) -> None:
    """A ConfigMap is here, and has the key; a Secret is somebody else's, and pods start without it."""
    rendering = CASES[case]()
    for pod in pods(rendering):
        for container in pod.containers:
            for source in container.get("envFrom", []):
                if "secretRef" in source:
                    assert source["secretRef"]["optional"] is True
                else:
                    find(rendering, "ConfigMap", source["configMapRef"]["name"])
            for variable in container.get("env", []):
                if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
                    assert reference["key"] in find(rendering, "ConfigMap", reference["name"])["data"]


@pytest.mark.parametrize("case", CASES)
def test_autoscalers_scale_what_is_there(case: str) -> None:
    """One autoscaler at most, of the Deployment, which sets no number itself."""
    rendering = CASES[case]()
    scalers = [*rendering.of("HorizontalPodAutoscaler"), *rendering.of("ScaledObject")]
    assert len(scalers) <= 1
    for scaler in scalers:
        target = scaler["spec"]["scaleTargetRef"]
        deployment = find(rendering, target["kind"], target["name"])
        assert deployment["apiVersion"] == target["apiVersion"]
        assert "replicas" not in deployment["spec"]
        assert all("cpu" in c["resources"]["requests"] for pod in pods(rendering) for c in pod.containers)


@pytest.mark.parametrize("part", ["train", "score"])
def test_on_a_laptop_there_is_room_beside_the_service(part: str) -> None:
    """Of minikube's two CPUs, of which its own pods ask for about one, a pod of any part fits beside the service's."""
    requests = [
        container["resources"]["requests"]["cpu"]
        for rendering in (overlay("local", "serve"), overlay("local", part))
        for pod in pods(rendering)
        for container in pod.containers
    ]
    millis = [int(cpu.removesuffix("m")) if cpu.endswith("m") else 1000 * int(cpu) for cpu in requests]
    assert sum(millis) <= 1000


@pytest.mark.parametrize("case", CASES)
def test_names_labels_and_namespaces_follow_the_convention(case: str) -> None:
    """Everything is Glyph's, in its namespace, with the recommended labels."""
    for document in CASES[case]().documents:
        metadata = document["metadata"]
        if document["kind"] not in CLUSTER_WIDE:
            assert metadata["namespace"] == NAMESPACE
        if not metadata["name"].startswith(("glyph-train", "glyph-serve", "glyph-score", "glyph-bundle")):
            assert metadata["name"].startswith("glyph") or metadata["name"] == "default-deny"
        if document["kind"] != "ConfigMap" or "bundle" not in metadata["name"]:
            assert metadata["labels"].items() >= CONVENTION.items()


def ways(rendering: Rendering, labels: dict[str, str], kind: str) -> list[dict[str, Any]]:
    """Return the rules of every policy that is for a pod with these labels: `ingress` or `egress`."""
    policies = [d["spec"] for d in complete(rendering) if d["kind"] == "NetworkPolicy"]
    chosen = [p for p in policies if p["podSelector"].get("matchLabels", {}).items() <= labels.items()]
    assert any(kind.capitalize() in policy["policyTypes"] for policy in chosen)
    return [rule for policy in chosen for rule in policy.get(kind, [])]


def ports(rules: list[dict[str, Any]]) -> set[Any]:
    """Return the ports of rules."""
    return {port["port"] for rule in rules for port in rule.get("ports", [])}


def test_policies_deny_everything_but_what_each_workload_needs() -> None:
    """Serving is asked and asks nobody; training asks the DNS and HTTPS; scoring does neither."""
    rendering = overlay("cpu", "serve")
    labels = {
        part: {**CONVENTION, "app.kubernetes.io/component": part} for part in ("serve", "train", "score")
    }
    assert ports(ways(rendering, labels["serve"], "ingress")) == {"http", "management"}
    assert ways(rendering, labels["serve"], "egress") == []
    assert ways(rendering, labels["train"], "ingress") == []
    assert ports(ways(rendering, labels["train"], "egress")) == {53, 443}
    assert ways(rendering, labels["score"], "ingress") == ways(rendering, labels["score"], "egress") == []


PRIVATE = (
    *("10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.255.255", "192.168.1.1", "0.0.0.0"),
    *("::1", "fd00::1", "fe80::1", "::ffff:10.0.0.1"),
)


@pytest.mark.parametrize("name", ["train", "bundle-from-url", "fetch"])
def test_what_asks_outside_reaches_no_private_address(name: str) -> None:
    """Neither the cluster nor its nodes nor the cloud's metadata, by either family; public servers by HTTPS alone."""
    rendering = overlay("cpu", "train") if name == "train" else component(name)
    (rules,) = [
        policy["spec"]["egress"]
        for policy in rendering.of("NetworkPolicy")
        if "Egress" in policy["spec"]["policyTypes"]
    ]
    dns, web = rules
    assert ports([dns]) == {53}
    assert ports([web]) == {443}
    blocks = [block["ipBlock"] for block in web["to"]]

    def reached(address: str) -> bool:
        host = ipaddress.ip_address(address)
        return any(
            host in ipaddress.ip_network(block["cidr"])
            and not any(host in ipaddress.ip_network(hole) for hole in block["except"])
            for block in blocks
        )

    assert reached("93.184.216.34")
    assert reached("2606:2800:220:1::1")
    assert [address for address in PRIVATE if reached(address)] == []


def test_the_service_asks_nobody_where_a_job_fetches() -> None:
    """The policy with a way out is for the pods of the Job, which end; the service's pods have another label."""
    rendering = component("fetch")
    job, service = (
        next(pod for pod in pods(rendering) if pod.owner["kind"] == kind) for kind in ("Job", "Deployment")
    )
    assert ports(ways(rendering, job.labels, "egress")) == {53, 443}
    assert ways(rendering, service.labels, "egress") == []
    assert ways(rendering, job.labels, "ingress") == []
    assert job.owner["spec"]["activeDeadlineSeconds"]


def test_with_a_bucket_there_is_no_volume_and_everybody_may_ask_the_store() -> None:
    """No claim at all, scratch with a limit, the bucket's URL in one place, and HTTPS and the DNS for each workload."""
    for part in (".", "common", "train", "serve", "score"):
        rendering = overlay("object-store", part)
        assert rendering.of("PersistentVolumeClaim") == []
        for pod in pods(rendering):
            (volume,) = pod.spec["volumes"]
            assert "sizeLimit" in volume["emptyDir"], pod.name
            assert ports(ways(rendering, pod.labels, "egress")) == {53, 443}, pod.name
            names = [variable["name"] for variable in pod.containers[0]["env"]]
            (first,) = [v for v in pod.containers[0]["env"] if v["name"] == "STORE_URL"]
            assert first["valueFrom"]["configMapKeyRef"] == {"name": "glyph-store", "key": "url"}
            using = [v["name"] for v in pod.containers[0]["env"] if "$(STORE_URL)" in v.get("value", "")]
            assert using, pod.name
            assert all(names.index("STORE_URL") < names.index(name) for name in using), pod.name
    assert all(
        "s3://" not in str(overlay("object-store", part).documents) for part in ("train", "serve", "score")
    )


@pytest.mark.parametrize("name", ["distributed", "trainer"])
def test_pods_that_train_together_may_talk(name: str) -> None:
    """From and to each other, by any port; the name of the first is the DNS's."""
    rendering = component(name)
    (pod,) = pods(rendering)
    for kind, side in (("ingress", "from"), ("egress", "to")):
        assert any(
            "ports" not in rule
            and selected(rule[side][0].get("podSelector", {}).get("matchLabels", {"": ""}), [pod])
            for rule in ways(rendering, pod.labels, kind)
        )


def test_the_first_pod_of_distributed_training_is_found_by_its_name() -> None:
    """Job, headless Service, subdomain, address and port fit each other."""
    rendering = component("distributed")
    job, service = rendering.one("Job", "glyph-train"), rendering.one("Service", "glyph-train")
    spec = job["spec"]["template"]["spec"]
    command = spec["containers"][0]["command"]
    assert service["spec"]["clusterIP"] == "None"
    assert spec["subdomain"] == service["metadata"]["name"]
    assert f"--master-addr={job['metadata']['name']}-0.{spec['subdomain']}" in command
    (port,) = service["spec"]["ports"]
    assert f"--master-port={port['port']}" in command
    assert spec["containers"][0]["ports"] == [{"name": port["targetPort"], "containerPort": port["port"]}]
    assert job["spec"]["completionMode"] == "Indexed"
    assert f"--nnodes={job['spec']['completions']}" in command
    assert job["spec"]["parallelism"] == job["spec"]["completions"]


@pytest.mark.parametrize("on", ["cpu", "gpu", "local", "object-store"])
def test_every_share_of_scoring_knows_how_many_there_are(on: str) -> None:
    """The number that the scorer divides by is the number of pods."""
    job = overlay(on, "score").one("Job", "glyph-score")["spec"]
    variables = {v["name"]: v.get("value") for v in job["template"]["spec"]["containers"][0]["env"]}
    assert variables["JOB_COMPLETIONS"] == str(job["completions"]) == str(job["parallelism"])


@pytest.mark.parametrize("on", ["cpu", "gpu", "object-store"])
def test_retraining_is_the_training_job(on: str) -> None:
    """The CronJob's pods, policies and limits are the Job's, and it is suspended."""
    rendering = overlay(on, "train")
    cron = rendering.one("CronJob", "glyph-retrain")["spec"]
    assert cron["suspend"] is True
    assert cron["jobTemplate"]["spec"] == rendering.one("Job", "glyph-train")["spec"]


def test_a_gpu_rollout_needs_no_spare_gpu() -> None:
    """On CPUs no pod goes before another answers; on GPUs one gives its GPU up first."""
    rollout = {
        on: overlay(on, "serve").one("Deployment", "glyph")["spec"]["strategy"] for on in ("cpu", "gpu")
    }
    assert rollout["cpu"]["rollingUpdate"]["maxUnavailable"] == 0
    assert rollout["gpu"]["rollingUpdate"]["maxSurge"] == 0
    for part in ("train", "serve", "score"):
        pod = next(iter(pods(overlay("gpu", part))))
        assert pod.containers[0]["resources"]["limits"]["nvidia.com/gpu"] == 1
        assert not any(
            "nvidia.com/gpu" in c["resources"]["limits"]
            for p in pods(overlay("cpu", part))
            for c in p.containers
        )


def test_queues_of_kueue_lead_to_each_other() -> None:
    """A Job's label, the local queue, the cluster's queue, its flavor and its namespace."""
    rendering = component("kueue")
    local, queue = rendering.one("LocalQueue", "glyph"), rendering.one("ClusterQueue", "glyph")
    for name, part in (("glyph-train", "train"), ("glyph-score", "score")):
        job = component("kueue", part=part).one("Job", name)
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    (group,) = queue["spec"]["resourceGroups"]
    assert [f["name"] for f in group["flavors"]] == [
        f["metadata"]["name"] for f in rendering.of("ResourceFlavor")
    ]
    covered = set(group["coveredResources"])
    for name in ("cpu", "gpu"):
        for pod in pods(overlay(name, "train")):
            assert pod.containers[0]["resources"]["limits"].keys() <= covered


def test_a_kubeflow_training_has_the_jobs_pods() -> None:
    """The runtime's pod is the Job's but for the name by which Kubeflow Trainer knows the container."""
    rendering = component("trainer")
    assert rendering.of("Job") == []
    runtime, job = rendering.one("TrainingRuntime", "glyph"), rendering.one("TrainJob", "glyph-train")
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    (ours,) = pods(rendering)
    theirs = next(iter(pods(overlay("local", "train"))))
    assert ours.containers[0] == theirs.containers[0] | {"name": "node"}
    assert ours.spec | {"containers": []} == theirs.spec | {"containers": []}


def test_every_component_says_what_it_is_for() -> None:
    """A comment stands at the top of each."""
    for name in COMPONENTS:
        assert (K8S / "components" / name / "kustomization.yaml").read_text().startswith("# "), name
