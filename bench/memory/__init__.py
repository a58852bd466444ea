"""Memory: of a service over many requests, of connections, of what clients have a worker hold, and of each pod."""
