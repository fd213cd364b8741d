"""The documented REST from the calling side: to nodes, services and clouds of other makes."""
