"""The API client over a real HTTP server."""
