"""Names: of classes, of known sets, and what the names of files and folders say."""
