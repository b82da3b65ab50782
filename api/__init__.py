"""The outer edge: command line, HTTP, and the place where the parts are put together."""
