"""A server: files by HTTP, live audio by WebSocket, one model for all. Needs the extra `serve`."""
