"""The service as a WSGI application (PEP 3333), `serving.wsgi:application`, for any server.

To import this module loads the model and starts a thread, so a server that forks has to import it afterwards.
"""

from serving.web.app import start_app

application = start_app()
