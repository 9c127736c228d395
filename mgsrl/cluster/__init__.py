"""Ray: the session, pools of interchangeable actors, bounded waits, preflight checks."""
