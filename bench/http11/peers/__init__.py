"""What the servers serve: GET answers `OK` or the page, POST the body, `/echo` the fields, `/cookie` the cookies."""
