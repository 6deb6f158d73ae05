"""For people who embed: a typed async client, the ways to get one, and commands with results.

Nothing is imported here, so that a server does not load what only a client needs; the
public names are those of `shimpy`.
"""
