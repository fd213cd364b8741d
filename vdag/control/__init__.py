"""The control plane: plans and reports, the machine's state, the limits of processes; no pixels."""
