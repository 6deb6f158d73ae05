"""The cgroups by themselves, real ones where the machine has them."""
