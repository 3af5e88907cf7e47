"""The routes, a file a subject. Each reads a request, calls one command or view, and shapes the answer."""
