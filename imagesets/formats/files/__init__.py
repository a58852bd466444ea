"""Image files: in folders, in archives, with their labels."""
