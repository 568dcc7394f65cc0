"""
`make test-compose`: deploy/compose.yml as an operator runs it, in a real container engine.

Outside of `make test`: it builds images, and takes minutes.
"""
