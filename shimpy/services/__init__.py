"""The APIs that are served: what requests mean, handed to the core and answered."""
