"""The tests in a machine of their own: see __main__."""
