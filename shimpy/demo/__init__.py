"""A container from Create to Delete, for people to look at: `python -m shimpy.demo`, which is `make run`."""
