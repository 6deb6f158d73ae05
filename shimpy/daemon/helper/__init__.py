"""What the small processes beside a shim share: the fork server, the keeper, the guardian.

Each of them lives long and there may be many, so a module here imports only what is part of the interpreter
itself: no `socket`, `signal` or `selectors`, which bring `enum` and `collections` (1.2 MB together), no
`typing`, no `logging`, no asyncio. For the type checker they are the modules that they are the cores of.
"""
