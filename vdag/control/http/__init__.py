"""What the REST sides of a node have in common: apps, errors, who may come in."""
