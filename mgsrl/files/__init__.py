"""Files of users and of runs: data files read with care, JSON lines, atomic writes."""
