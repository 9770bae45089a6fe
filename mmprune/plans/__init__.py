"""Which channels go, said layer by layer: plans, channel lists; what else is touched and why."""
