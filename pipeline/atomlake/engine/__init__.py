"""Plan, compute, publish: the layer that runs recipes."""
