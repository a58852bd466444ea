"""Probes while the data port is asked for twice what it can answer."""

from pathlib import Path

from bench.serving.probes import FACTOR, capacity, finish, loading, probe
from bench.support.management import await_, managed
from bench.support.pictures import a_digit, png
from bundle.repository import Bundle


def test_no_probe_fails_at_twice_the_capacity(bundle: Bundle, tmp_path: Path, worker_class: str) -> None:
    """`python -m bench probes` measures how long they take; here none of a thousand may fail."""
    image = png(a_digit())
    with managed(tmp_path, model=bundle.path.parent, worker=worker_class) as pod:
        able = capacity(pod.service.port, image, 2)
        with loading(pod.service.port, image, seconds=300, rate=FACTOR * able) as load:
            # It has a handler of SIGTERM before it sends anything.
            answered = pod.value("glyph_http_requests_total", status="200")
            await_(lambda: pod.value("glyph_http_requests_total", status="200") > answered)
            probed = probe(pod.port, ("/livez", "/readyz"), 900)
            scraped = probe(pod.port, ("/metrics",), 100)
            result = finish(load, now=True)
        assert probed.failed + scraped.failed == []
        assert result["answers"]["200"] > 0
