"""The tests of shimpy; they mirror its modules, file by file."""
