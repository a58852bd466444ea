"""The service as a WSGI application (PEP 3333), `serving.wsgi:application`, for any WSGI server.

Importing this module loads the model and starts a thread, so a server that forks must import it in its workers.
"""

from serving.web.app import start_app

application = start_app()
