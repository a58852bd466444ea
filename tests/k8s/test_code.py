"""Every image, port, path, variable and exit code that a manifest names, against the code that defines it."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import training.__main__ as training_command
from bench.memory import held
from bundle import __version__
from bundle.signing import TrustedKeysError, read_key_files
from common.configuration import build, parse
from common.errors import ConfigurationError
from imagesets.errors import DataError
from serving import reference
from serving.predict.oip import GRPC_PATH
from serving.scoring import errors as scoring_errors
from serving.scoring.settings import ScoreSettings
from serving.scoring.settings import environment_layer as scoring_layer
from serving.scoring.stored_job import StoredJob
from serving.security.tokens import parse_tokens
from serving.settings import ServiceSettings, environment_layer, management_port
from serving.telemetry import alerts
from serving.telemetry.catalogue import CATALOGUE
from serving.token import line_of, new_token
from tests.bundle.keys import new_key, public_pem
from tests.conftest import ROOT
from tests.k8s.rendering import (
    CASES,
    OVERLAYS,
    Document,
    Pod,
    Rendering,
    complete,
    component,
    in_bytes,
    overlay,
    pods,
)
from training import errors as training_errors
from training.settings import ENVIRONMENT_PREFIX as TRAINING_PREFIX
from training.settings import TrainingSettings

TRAINING = (ROOT / "docs" / "training.md").read_text()
DOCKERFILES = {"train": "Dockerfile.train", "serve": "Dockerfile.serve", "score": "Dockerfile.serve"}
MODULES = {"train": "training", "serve": "serving", "score": "serving.score"}

STORE = "STORE_URL"
"""The variable that has a bucket's URL, of which settings are made."""
WORKING_DIRECTORY = Path("/glyph")
"""Of the images, where a relative path begins."""
WORKER_BYTES = 90 << 20
"""What a worker process takes that has nothing to do, with its share of the others (`python -m bench footprint`)."""


def stage(program: str) -> str:
    """Return the text of the Dockerfile from a stage's FROM to the next one, its parent's before it."""
    text = (ROOT / DOCKERFILES[program]).read_text()
    parts = re.split(r"(?m)^(?=FROM )", text)
    found: str = next(part for part in parts if re.match(rf"FROM \S+ AS {program}\n", part))
    parent = re.match(r"FROM (\S+)", found)
    assert parent
    return (stage(parent[1]) if parent[1] in DOCKERFILES else "") + found


def image_environment(program: str) -> dict[str, str]:
    """Return the GLYPH_ variables that an image has."""
    text = stage(program).replace("\\\n", " ")
    pairs = (
        pair
        for line in re.findall(r"(?m)^ENV (.*)$", text)
        for pair in re.findall(r"(GLYPH_\w+)=(\S*)", line)
    )
    return {name: value for name, value in pairs if "$" not in value}


def environment(rendering: Rendering, pod: Pod) -> dict[str, str]:
    """Return the variables that a pod's main container runs with: the image's, then the manifest's."""
    found = image_environment(program_of(pod))
    maps = {d["metadata"]["name"]: d["data"] for d in complete(rendering) if d["kind"] == "ConfigMap"}
    for source in pod.containers[-1].get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]] if "configMapRef" in source else {}
    own: dict[str, str] = {}
    for variable in pod.containers[-1].get("env", []):
        if reference := variable.get("valueFrom", {}).get("configMapKeyRef"):
            own[variable["name"]] = maps[reference["name"]][reference["key"]]
        elif "value" in variable:  # $(NAME) is a variable that stands before it
            own[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: own[name[1]], variable["value"])
    return found | own


def program_of(pod: Pod, container: int = -1) -> str:
    """Return which of the programs a container's image has."""
    match = re.fullmatch(r"glyph-(\w+):(\S+)", pod.containers[container]["image"])
    assert match, pod.containers[container]["image"]
    return match[1]


def every_pod(programs: str) -> list[tuple[str, Rendering, Pod]]:
    """Return each pod that runs one of the programs, with where it is from."""
    found = [(name, case(), pod) for name, case in CASES.items() for pod in pods(case())]
    return [(name, rendering, pod) for name, rendering, pod in found if program_of(pod) in programs.split()]


def every_service() -> list[tuple[str, Rendering, Pod]]:
    """Return each pod that serves; a Job may run the service's image with another command."""
    return [found for found in every_pod("serve") if found[2].owner["kind"] == "Deployment"]


def test_images_are_those_that_are_built() -> None:
    """Name, version and device are docker-bake.hcl's; the user is the Dockerfile's; there is no other image."""
    bake = (ROOT / "docker-bake.hcl").read_text()
    assert f'default = "{__version__}"' in bake
    for name, _rendering, pod in every_pod("train serve score"):
        device = "cuda" if "gpu" in name.split("/")[0].split() else "cpu"
        for index, container in enumerate(pod.containers):
            program = program_of(pod, index)
            suffix = "" if program == "train" else f"-{device}"
            assert container["image"] == f"glyph-{program}:{__version__}{suffix}", name
        user = pod.spec["securityContext"]["runAsUser"]
        assert f"\nUSER {user}:{user}\n" in stage(program_of(pod))
    assert 'tags       = ["${REGISTRY}glyph-train:latest", "${REGISTRY}glyph-train:${VERSION}"]' in bake
    assert '"${REGISTRY}glyph-${program}:${VERSION}-${device}"' in bake


def test_pods_go_where_their_images_run() -> None:
    """Images with CUDA are amd64's alone, and the others have no processor that they are kept from."""
    for name, _rendering, pod in every_pod("train serve score"):
        if pod.name == "Job/glyph-fetch":
            continue  # kustomize copies no part of the Deployment's selector; the component says what to patch
        selected = pod.spec.get("nodeSelector", {})
        gpu = "nvidia.com/gpu.present" in selected or pod.containers[0]["image"].endswith("-cuda")
        assert selected.get("kubernetes.io/arch") == ("amd64" if gpu else None), name
        assert gpu or not selected, name
        assert "nodeAffinity" not in pod.spec.get("affinity", {}), name


def test_variables_of_the_service_are_its_settings() -> None:
    """Settings are built from what the pod has, and its ports are the named ones."""
    for name, rendering, pod in every_service():
        settings = build(ServiceSettings, [environment_layer(environment(rendering, pod))])
        ports = {port["name"]: port["containerPort"] for port in pod.containers[-1]["ports"]}
        wanted = {"http": settings.port, "management": management_port(settings)}
        wanted |= {} if settings.grpc_port is None else {"grpc": settings.grpc_port}
        assert ports == wanted, name
        assert settings.host == settings.management_host == "0.0.0.0"
        mounts = {mount["name"]: mount for mount in pod.containers[-1]["volumeMounts"]}
        assert ("tokens" in mounts) == (settings.tokens_file is not None) == ("tokens" in name), name
        (mount,) = [
            mount
            for mount in mounts.values()
            if (WORKING_DIRECTORY / settings.model_directory).is_relative_to(mount["mountPath"])
        ]
        assert isinstance(settings.model, Path) or not mount.get("readOnly"), "versions are fetched into it"
        hook = pod.containers[-1]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert pod.spec["terminationGracePeriodSeconds"] >= hook + settings.graceful_timeout_seconds + 5
        memory = in_bytes(pod.containers[-1]["resources"]["limits"]["memory"])
        workers = int(pod.containers[-1]["resources"]["limits"]["cpu"])
        connections = settings.connections * (held.CONNECTION_BYTES + held.KERNEL_BYTES)
        decoding = (settings.threads + 1) * held.DECODING_TIMES * settings.max_body_bytes
        each = WORKER_BYTES + held.QUEUE_TIMES * settings.queue_bytes + connections + decoding
        assert workers * each <= memory, "overload would be the end of the pod"


def test_variables_and_arguments_of_training_are_its_settings() -> None:
    """The command line parses, everything is written on the volume, and a pod goes on where another stopped."""
    for name, rendering, pod in every_pod("train"):
        container = pod.containers[-1]
        prefix = container.get("command", ["python", "-m", "training"])
        if rendering.of("TrainJob"):
            trainer = rendering.one("TrainJob", "glyph-train")["spec"]["trainer"]
            prefix, arguments = trainer["command"], trainer["args"]
        else:
            arguments = container["args"]
        assert prefix[-2:] == ["-m", "training"]
        assert 'ENTRYPOINT ["python", "-m", "training"]' in stage("train")
        options = parse(training_command._parser(), arguments, TrainingSettings)
        assert options.command == "fit"
        variables = environment(rendering, pod)
        known = {f"{TRAINING_PREFIX}{field.upper()}": field for field in TrainingSettings.model_fields}
        own = {key: value for key, value in variables.items() if key != STORE}
        settings = TrainingSettings.model_validate({known[key]: value for key, value in own.items()})
        assert settings.resume
        (mount,) = container["volumeMounts"]
        for path in (settings.models, settings.runs, settings.data_dir):
            assert path.is_relative_to(mount["mountPath"]), name
        assert settings.device == ("cuda" if name.startswith("gpu") else "cpu")


def test_variables_and_arguments_of_scoring_are_its_settings() -> None:
    """What is scored and what is merged is the same folder, on the volume."""
    for name, rendering, pod in every_pod("score"):
        variables = environment(rendering, pod)
        own = {key: value for key, value in variables.items() if key.startswith("GLYPH_SCORE_")}
        job = StoredJob.of([scoring_layer(own)])
        settings = build(ScoreSettings, job.layers)
        assert 'ENTRYPOINT ["python", "-m", "serving.score"]' in stage("score")
        for path in (settings.output, settings.model, *settings.input):
            assert str(path).startswith("/glyph/"), name
        assert 'CMD ["--help"]' in stage("score")  # which a pod without arguments would do, and succeed
        words = ["merge"] if pod.containers[-1]["name"] == "merge" else []
        assert pod.containers[-1]["args"] == [*words, "--output", "$(GLYPH_SCORE_OUTPUT)"]


def test_the_volume_is_where_the_images_expect_it() -> None:
    """What one workload writes, the next one reads: one path in all of them."""
    written = f"{image_environment('train')['GLYPH_TRAIN_MODELS']}/mnist"
    assert f"\nWORKDIR {WORKING_DIRECTORY}\n" in (ROOT / "Dockerfile.serve").read_text()
    assert "GLYPH_MODEL" not in image_environment("serve")  # it would hide what a platform mounts
    assert str(WORKING_DIRECTORY / ServiceSettings().model) == written
    assert image_environment("score").get("GLYPH_SCORE_MODEL") == written
    (pod,) = pods(component("bundle-from-url"))
    assert pod.spec["initContainers"][0]["command"][-2:] == ["--models", "/glyph/models"]


@pytest.mark.parametrize("name", ["bundle-from-url", "fetch"])
def test_fetching_a_bundle_is_a_command_that_there_is(name: str) -> None:
    """`python -m bundle fetch` takes these options; the digest is of the right form."""
    rendering = component(name)
    (command,) = [c["command"] for pod in pods(rendering) for c in pod.containers if c["name"] == "fetch"]
    assert command[:4] == ["python", "-m", "bundle", "fetch"]
    help_text = (ROOT / "bundle" / "__main__.py").read_text()
    assert all(f'"{option}"' in help_text for option in command if option.startswith("--"))
    data = rendering.one("ConfigMap", "glyph-bundle")["data"]
    assert re.fullmatch("[0-9a-f]{64}", data["digest"])
    assert data["url"].rpartition("/")[2].isdigit()


def policy(job: Document) -> dict[str, set[int]]:
    """Return the exit codes of each action of a Job's podFailurePolicy."""
    spec = job["spec"]
    found: dict[str, set[int]] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        if codes := rule.get("onExitCodes"):
            assert codes["operator"] == "In"
            assert codes["containerName"] in {c["name"] for c in spec["template"]["spec"]["containers"]}
            found.setdefault(rule["action"], set()).update(codes["values"])
    assert spec["podFailurePolicy"]["rules"][0] == {
        "action": "Ignore",
        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
    }
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    return found


def codes_of(module: Any, base: type[Exception]) -> dict[str, int]:
    """Return the exit code of every error of a module."""
    kinds: list[Any] = [
        kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, base)
    ]
    return {kind.__name__: kind.exit_code for kind in kinds if kind is not base}


def test_training_is_tried_again_as_its_exit_codes_say() -> None:
    """The table of docs/training.md says of each code whether to try again; the Job does as it says."""
    table = dict(
        re.findall(r"(?m)^\| (\d+) \| [^|]+ \| ([^|]*)\|$", TRAINING.split("| code | meaning | again? |")[1])
    )
    again = {int(code): word.strip() for code, word in table.items()}
    errors = codes_of(training_errors, training_errors.TrainingError)
    assert set(errors.values()) | {training_errors.EXIT_MISUSE, DataError.exit_code, 0} == set(again)
    for name in OVERLAYS:
        found = policy(overlay(name, "train").one("Job", "glyph-train"))
        assert found["FailJob"] == {code for code, word in again.items() if word == "no"}
        assert found["Ignore"] == {errors["InterruptedRunError"]}


def test_scoring_is_tried_again_as_its_exit_codes_say() -> None:
    """A share that a signal stopped goes on; a full disk and want of memory may pass; nothing else is tried again."""
    errors = codes_of(scoring_errors, scoring_errors.ScoringError)
    rendering = overlay("cpu", "score")
    shares, merging = (policy(rendering.one("Job", name)) for name in ("glyph-score", "glyph-score-merge"))
    permanent = {
        scoring_errors.EXIT_SETTING,
        scoring_errors.EXIT_BAD_IMAGES,
        DataError.exit_code,
        *errors.values(),
    } - {
        errors["Stopped"],
        errors["WriteError"],
        errors["DecoderError"],
    }
    assert errors["LockedError"] == errors["Stopped"]  # the other run is waited for
    assert shares == {"Ignore": {errors["Stopped"]}, "FailIndex": permanent}
    assert merging == {"FailJob": permanent | {errors["IncompleteError"]}}


def test_probes_ask_what_the_management_port_answers() -> None:
    """And Prometheus does too; with gRPC, readiness is that of the service in gRPC's health checks."""
    source = (ROOT / "serving" / "management" / "server.py").read_text()
    served = set(re.findall(r'"(/\w+)"', source))
    assert {"/livez", "/readyz", "/metrics"} <= served
    for name, rendering, pod in every_service():
        container = pod.containers[-1]
        for probe, path in (
            ("startupProbe", "/livez"),
            ("livenessProbe", "/livez"),
            ("readinessProbe", "/readyz"),
        ):
            if probe == "readinessProbe" and "GLYPH_GRPC_PORT" in environment(rendering, pod):
                assert container[probe]["grpc"] == {"port": 9000, "service": GRPC_PATH.strip("/")}, name
            else:
                assert container[probe]["httpGet"] == {"path": path, "port": "management"}, name
    monitors = [
        *component("pod-monitor").of("PodMonitor"),
        *component("service-monitor").of("ServiceMonitor"),
    ]
    for monitor in monitors:
        spec = monitor["spec"]
        (end,) = spec.get("podMetricsEndpoints") or spec["endpoints"]
        assert end["path"] == "/metrics"


def test_the_component_of_tokens_admits_nobody_until_it_has_a_line() -> None:
    """The service reads the Secret's file, which is mounted with its directory so that changes arrive."""
    rendering = component("tokens")
    (pod,) = pods(rendering)
    (service,) = pod.spec["containers"]
    path = build(ServiceSettings, [environment_layer(environment(rendering, pod))]).tokens_file
    assert path is not None
    (mount,) = [m for m in service["volumeMounts"] if m["mountPath"] == str(path.parent)]
    assert mount["readOnly"]
    assert "subPath" not in mount
    (volume,) = [v for v in pod.spec["volumes"] if v["name"] == mount["name"]]
    secret = rendering.one("Secret", volume["secret"]["secretName"])
    assert secret["data"].keys() == {path.name}
    text = base64.b64decode(secret["data"][path.name]).decode()
    assert parse_tokens(text) == ()
    assert len(parse_tokens(text + line_of("till-7", new_token()))) == 1


def test_the_component_of_trusted_keys_starts_nothing_without_a_key(tmp_path: Path) -> None:
    """The directory that the service reads has the file of keys, which is empty of them until somebody adds one."""
    rendering = component("trusted-keys")
    (pod,) = pods(rendering)
    (service,) = pod.spec["containers"]
    keys = build(ServiceSettings, [environment_layer(environment(rendering, pod))]).trusted_keys
    (mount,) = [m for m in service["volumeMounts"] if m["mountPath"] == str(keys)]
    (volume,) = [v for v in pod.spec["volumes"] if v["name"] == mount["name"]]
    for name, text in rendering.one("ConfigMap", volume["configMap"]["name"])["data"].items():
        (tmp_path / name).write_text(text)
    with pytest.raises(TrustedKeysError, match="has no public key"):
        read_key_files(tmp_path)
    with (tmp_path / "keys.pem").open("ab") as file:
        file.write(public_pem(new_key()))
    assert len(read_key_files(tmp_path)) == 1


def test_an_ingress_lets_through_what_the_service_takes() -> None:
    """Its limit of a body is the service's."""
    annotations = component("ingress").one("Ingress", "glyph")["metadata"]["annotations"]
    limit = annotations["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(limit) == ServiceSettings.model_fields["max_body_bytes"].default


def test_autoscalers_ask_for_metrics_that_there_are() -> None:
    """Gauges of what waits; KEDA and the Prometheus adapter by the same thresholds."""
    metrics = component("hpa-in-flight").one("HorizontalPodAutoscaler", "glyph")["spec"]["metrics"]
    adapter = {m["pods"]["metric"]["name"]: m["pods"]["target"]["averageValue"] for m in metrics}
    triggers = component("keda").one("ScaledObject", "glyph")["spec"]["triggers"]
    queries = {trigger["metadata"]["query"]: trigger["metadata"]["threshold"] for trigger in triggers}
    asked = {re.findall(r"sum\((\w+)", query)[0]: threshold for query, threshold in queries.items()}
    assert adapter == asked
    assert all(CATALOGUE[name].kind == "gauge" for name in adapter)
    for metric in adapter:
        assert metric in (ROOT / "docs" / "kubernetes.md").read_text()


def test_the_alerts_are_those_of_the_code() -> None:
    """`python -m serving.reference` wrote them; together they are all there are."""
    found: list[Mapping[str, Any]] = []
    for path, gpu in reference.RULES.items():
        text = (ROOT / path).read_text()
        assert text == alerts.prometheus_rule(gpu=gpu), "run python -m serving.reference"
        (group,) = yaml.safe_load(text)["spec"]["groups"]
        found += group["rules"]
    (group,) = yaml.safe_load(alerts.rules())["groups"]
    assert sorted(found, key=str) == sorted(group["rules"], key=str)


@pytest.mark.parametrize("name", ["pod-monitor", "service-monitor"])
def test_the_job_of_the_monitors_is_the_alerts_job(name: str) -> None:
    """Prometheus's `job` is the label that the monitor names; the alerts ask for job="glyph"."""
    rendering = component(name)
    (monitor,) = [*rendering.of("PodMonitor"), *rendering.of("ServiceMonitor")]
    labelled = [pod.labels for pod in pods(rendering)]
    labelled += [d["metadata"]["labels"] for d in rendering.of("Service") if d["metadata"]["name"] != "glyph"]
    assert {labels[monitor["spec"]["jobLabel"]] for labels in labelled} == {"glyph"}
    assert any('job="glyph"' in alert.expression for alert in alerts.ALERTS)


def test_the_parsers_are_real() -> None:
    """A misspelt setting would be found, in each of the three programs."""
    with pytest.raises(ConfigurationError, match="did you mean '--epochs'"):
        parse(training_command._parser(), ["fit", "--epoch", "3"], TrainingSettings)
    with pytest.raises(ConfigurationError, match="did you mean 'GLYPH_PROVIDER'"):
        environment_layer({"GLYPH_PROVIDE": "cpu"})
    with pytest.raises(ConfigurationError, match="did you mean 'GLYPH_SCORE_INPUT'"):
        scoring_layer({"GLYPH_SCORE_INPUTS": "/glyph/input"})


def test_the_document_has_the_requests_and_limits() -> None:
    """What a pod needs is written as the manifests have it."""
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    rows = {
        "train": overlay("cpu", "train").one("Job", "glyph-train"),
        "serve": overlay("cpu", "serve").one("Deployment", "glyph"),
        "score": overlay("cpu", "score").one("Job", "glyph-score"),
        "merge": overlay("cpu", "score").one("Job", "glyph-score-merge"),
    }
    for name, document in rows.items():
        (container,) = document["spec"]["template"]["spec"]["containers"]
        row = [f"| {name} |"]
        for kind in ("requests", "limits"):
            cpu, memory = (container["resources"][kind][key] for key in ("cpu", "memory"))
            number = float(cpu.removesuffix("m")) / 1000 if cpu.endswith("m") else float(cpu)
            unit = "CPU" if number == 1 else "CPUs"
            row.append(f" {number:g} {unit}, {memory.replace('Mi', ' MiB').replace('Gi', ' GiB')} |")
        assert "".join(row) in text
