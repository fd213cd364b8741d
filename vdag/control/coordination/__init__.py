"""Coordination: which handlers a service has, and on which nodes they go. Pure but for its files.

documents    nodes, handler types and services, as their folders have them
types        what handlers take, give and may be told
placing      algorithms: a service, nodes and costs to a placement, and why
cuts         a placement to a blueprint per node, with pairs of tx and rx between them
"""
