"""Memory: growth of a service, idle connections, buffers filled by hostile clients, and each kind of pod."""
