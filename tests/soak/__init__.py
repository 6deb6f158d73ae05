"""Random containers, for as long as one likes, against a model of what State and Events must say."""
