"""The parts of the scheduler: queries and nodes, the table that moves them, timers; all pure."""
