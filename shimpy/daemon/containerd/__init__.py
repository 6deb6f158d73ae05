"""`containerd-shim-shimpy-v2`: start, delete and -info, as containerd calls them, and the daemon behind.

Each container costs one start and one delete, which containerd waits for. So the modules of these two import
next to nothing before they know that it is needed: neither asyncio nor protobuf, nor `typing`.
"""
