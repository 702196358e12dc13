"""What a run will need, before anything is started: parameters, memory, work and time, from settings alone."""
