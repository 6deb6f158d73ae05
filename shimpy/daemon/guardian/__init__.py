"""What sees to it that a program takes with it what it has started: a small process for each program."""
