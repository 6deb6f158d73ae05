"""The client, the launchers and what is built on them."""
