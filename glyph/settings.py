"""The options of `glyph predict`."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from bundle.images.contract import Resize
from common.configuration import OrNone, Settings


class PredictSettings(Settings):
    """What answers, and how."""

    url: Annotated[
        str | None,
        OrNone,
        Field(
            description="address of a running service to ask, such as http://127.0.0.1:8080; none loads the model into "
            "this process. Certificates and proxies are those of SSL_CERT_FILE, HTTPS_PROXY, HTTP_PROXY and NO_PROXY"
        ),
    ] = None
    token_file: Annotated[
        Path | None,
        OrNone,
        Field(
            description="file with the bearer token for the service at --url; none is the token in GLYPH_TOKEN"
        ),
    ] = None
    timeout_seconds: Annotated[
        float,
        Field(
            gt=0, le=3600, description="seconds without a byte after which the service at --url is given up"
        ),
    ] = 30.0
    model: Annotated[
        Path | None,
        OrNone,
        Field(
            description="without --url, the directory of the model, models/NAME, or of a version, models/NAME/VERSION; "
            "none is GLYPH_MODEL, else models/mnist. Other variables of the service, such as GLYPH_PROVIDER, apply too"
        ),
    ] = None
    resize: Annotated[
        Resize | None,
        OrNone,
        Field(
            description="how images of other sizes become 28x28: fit, pad or mnist, whichever the model's training "
            "images were resized by; none rejects them"
        ),
    ] = None
