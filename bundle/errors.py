"""Every error that this package raises on purpose: what was wrong, and what to do."""


class BundleError(Exception):
    """A bundle, or a model repository, is not what the contract says."""


class NoBundleError(BundleError):
    """There is no published version where one was looked for."""


class InvalidBundleError(BundleError):
    """A version is there, but it is incomplete, changed or written by a newer schema."""


class PublishError(BundleError):
    """A bundle could not be published; nothing that counts was written."""


class ConfigurationError(Exception):
    """A setting is unknown, missing or out of range; the message names it and where it came from."""
