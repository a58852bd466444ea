"""`python -m serving.health`: exits with 0 if the service in this container is ready, else with 1 and the reason.

It is for Docker's HEALTHCHECK in an image without curl, and reads the settings of the service.
"""

import http.client
import json
import sys

from common.errors import ConfigurationError
from serving.settings import load_settings
from serving.system.addresses import local_management

TIMEOUT_SECONDS = 4


def main() -> int:
    """Request `/readyz` on the management port; return the exit code."""
    try:
        settings = load_settings()
    except ConfigurationError as error:
        print(error)
        return 1
    address = local_management(settings)
    if address is None:
        print("there is no management port to ask (GLYPH_MANAGEMENT_PORT=0)")
        return 0
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        print(f"the management port does not answer: {error}")
        return 1
    if response.status != http.client.OK:
        print(json.loads(answer).get("detail", answer))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
